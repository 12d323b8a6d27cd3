#include "say.h"

#include <ctype.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

void msq_say_string(const char *text) {
    putchar('"');
    for (; *text; text++) {
        if (*text == '"' || *text == '\\')
            printf("\\%c", *text);
        else if ((unsigned char)*text < 0x20)
            printf("\\u%04x", *text);
        else
            putchar(*text);
    }
    putchar('"');
}

/* Read the first line of a file of /sys; false where there is none. */
static bool read_line(char *text, int size, const char *format, int index) {
    char path[128];
    snprintf(path, sizeof path, format, index);
    FILE *file = fopen(path, "r");
    const bool is_read = file && fgets(text, size, file);
    if (file) fclose(file);
    if (is_read) text[strcspn(text, "\n")] = 0;
    return is_read;
}

/* Whether the system lists a processor, or a thermal zone, of that number. */
static bool is_there(const char *format, int index) {
    char path[128];
    snprintf(path, sizeof path, format, index);
    return access(path, F_OK) == 0;
}

static bool is_number(const char *text) {
    for (text += *text == '-'; isdigit((unsigned char)*text); text++)
        if (text[1] == 0) return true;
    return false;
}

/* A list of what every processor tells, until one is not there. */
static void say_processors(const char *name, const char *file, bool are_numbers) {
    char format[96], text[64];
    snprintf(format, sizeof format, "/sys/devices/system/cpu/cpu%%d/cpufreq/%s", file);
    printf("\"%s\": [", name);
    for (int i = 0, said = 0; is_there("/sys/devices/system/cpu/cpu%d", i); i++) {
        if (!read_line(text, sizeof text, format, i) || (are_numbers && !is_number(text))) continue;
        if (said++) printf(", ");
        if (are_numbers)
            fputs(text, stdout);
        else
            msq_say_string(text);
    }
    printf("], ");
}

void msq_say_conditions(void) {
    char name[64], degrees[64];
    printf("{\"what\": \"conditions\", ");
    say_processors("governors", "scaling_governor", false);
    say_processors("frequencies_khz", "scaling_cur_freq", true);
    say_processors("limits_khz", "scaling_max_freq", true);
    printf("\"temperatures\": {");
    for (int i = 0, said = 0; is_there("/sys/class/thermal/thermal_zone%d", i); i++) {
        if (!read_line(degrees, sizeof degrees, "/sys/class/thermal/thermal_zone%d/temp", i) || !is_number(degrees)) continue;
        if (!read_line(name, sizeof name, "/sys/class/thermal/thermal_zone%d/type", i))
            snprintf(name, sizeof name, "thermal_zone%d", i);
        if (said++) printf(", ");
        msq_say_string(name);
        printf(": %s", degrees);
    }
    puts("}}");
}

/* A figure of /proc/self/status in bytes; 0 where the kernel does not tell it. Not getrusage: its peak outlives exec. */
static long long held(const char *name) {
    char line[256];
    long long kilobytes = 0;
    const size_t size = strlen(name);
    FILE *status = fopen("/proc/self/status", "r");
    while (status && fgets(line, sizeof line, status))
        if (!strncmp(line, name, size) && line[size] == ':' && sscanf(line + size + 1, "%lld", &kilobytes) == 1) break;
    if (status) fclose(status);
    return 1024 * kilobytes;
}

static long long before_mark;

void msq_mark_memory(void) {
    before_mark = held("VmHWM");
    FILE *refs = fopen("/proc/self/clear_refs", "w");
    if (refs == NULL) return;
    fputs("5", refs);
    fclose(refs);
}

void msq_say_memory(void) {
    printf("{\"what\": \"memory\", \"load_peak_bytes\": %lld, \"run_peak_bytes\": %lld, \"anonymous_bytes\": %lld, "
           "\"file_bytes\": %lld}\n", before_mark, held("VmHWM"), held("RssAnon"), held("RssFile"));
}
