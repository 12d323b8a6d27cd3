/* msq-run: runs a bundle where there is nothing else. See HELP; docs/native.md says what each line holds. */
#include <errno.h>
#include <getopt.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/utsname.h>
#include <time.h>

#include "manifest.h"
#include "msq_native.h"
#include "npy.h"
#include "say.h"
#include "tier.h"

static const char HELP[] =
    "usage: msq-run BUNDLE [options]\n"
    "Runs the model of a bundle's folder, and prints a JSON object a line.\n"
    "\n"
    "  -i, --input FILE    images, .npy: float32 as the model takes them, or uint8 pixels; - is the standard input\n"
    "  -l, --labels FILE   int64 .npy: how many images get their class\n"
    "  -o, --output FILE   write the outputs, float32 .npy\n"
    "      --tensors FILE  write every tensor of every image, in the order in which they are made, without fusion,\n"
    "                      and print what each is\n"
    "  -k, --top K         print the K largest outputs of each image\n"
    "  -r, --repeat N      time N runs of the first image\n"
    "      --seconds S     and for at least so long\n"
    "      --warm-up N     runs before them, 10 by default\n"
    "      --warm-up-seconds S\n"
    "      --most-seconds S  begin no run after that, 600 by default\n"
    "  -p, --profile       time every node\n"
    "  -t, --threads N     1 by default\n"
    "      --tier NAME     of the kernels, instead of the processor's best\n"
    "  -h, --help, --version\n"
    "\n"
    "exit codes: 0; 2 usage; 5 input; 8 bundle; 10 this machine; 11 output not written\n";

enum { EXIT_USAGE = 2, EXIT_DATA = 5, EXIT_BUNDLE = 8, EXIT_DEVICE = 10, EXIT_STORAGE = 11 };
enum { REPORT_EVERY = 32 };
enum {
    OPTION_TENSORS = 256, OPTION_TIER, OPTION_VERSION, OPTION_SECONDS, OPTION_WARM_UP, OPTION_WARM_UP_SECONDS,
    OPTION_MOST_SECONDS
};

typedef struct {
    const char *bundle, *input, *labels, *output, *tensors, *tier;
    int32_t top, repeat, warm_up, threads;
    double seconds, warm_up_seconds, most_seconds;
    bool profile;
} arguments;

static int fail(int code, const char *hint, const char *format, ...) {
    char text[512];
    va_list values;
    va_start(values, format);
    vsnprintf(text, sizeof text, format, values);
    va_end(values);
    printf("{\"error\": ");
    msq_say_string(text);
    printf(", \"hint\": ");
    msq_say_string(hint);
    printf(", \"exit_code\": %d}\n", code);
    fflush(stdout);
    fprintf(stderr, "error: %s\n", text);
    if (*hint) fprintf(stderr, "hint: %s\n", hint);
    return code;
}

static int failed(msq_status status) {
    switch (status) {
        case MSQ_INPUT: return fail(EXIT_DATA, "see the bundle's manifest.json for its input", "%s", msq_error());
        case MSQ_FILE:
        case MSQ_INVALID:
        case MSQ_ALIGNMENT: return fail(EXIT_BUNDLE, "export the model again, or fetch it again", "%s", msq_error());
        case MSQ_SCHEMA: return fail(EXIT_BUNDLE, "a newer msq-run reads it", "%s", msq_error());
        default: return fail(EXIT_DEVICE, "", "%s", msq_error());
    }
}

static bool read_count(const char *text, int32_t least, int32_t *out) {
    char *end;
    errno = 0;
    const long value = strtol(text, &end, 10);
    if (errno || end == text || *end || value < least || value > INT32_MAX) return false;
    *out = (int32_t)value;
    return true;
}

static bool read_seconds(const char *text, double *out) {
    char *end;
    *out = strtod(text, &end);
    return end != text && *end == 0 && *out >= 0 && *out <= 1e6;
}

/* Return −1 to go on, else the exit code. */
static int read_arguments(arguments *a, int count, char **values) {
    static const struct option LONG[] = {
        {"input", required_argument, NULL, 'i'},   {"labels", required_argument, NULL, 'l'},
        {"output", required_argument, NULL, 'o'},  {"tensors", required_argument, NULL, OPTION_TENSORS},
        {"top", required_argument, NULL, 'k'},     {"repeat", required_argument, NULL, 'r'},
        {"profile", no_argument, NULL, 'p'},       {"threads", required_argument, NULL, 't'},
        {"tier", required_argument, NULL, OPTION_TIER}, {"help", no_argument, NULL, 'h'},
        {"version", no_argument, NULL, OPTION_VERSION}, {"seconds", required_argument, NULL, OPTION_SECONDS},
        {"warm-up", required_argument, NULL, OPTION_WARM_UP},
        {"warm-up-seconds", required_argument, NULL, OPTION_WARM_UP_SECONDS},
        {"most-seconds", required_argument, NULL, OPTION_MOST_SECONDS}, {NULL, 0, NULL, 0},
    };
    const char *const usage = "msq-run --help lists the options";
    opterr = 0;
    *a = (arguments){.threads = 1, .warm_up = 10, .most_seconds = 600};
    for (int option; (option = getopt_long(count, values, "i:l:o:k:r:pt:h", LONG, NULL)) >= 0;) {
        bool fits = true;
        switch (option) {
            case 'i': a->input = optarg; break;
            case 'l': a->labels = optarg; break;
            case 'o': a->output = optarg; break;
            case OPTION_TENSORS: a->tensors = optarg; break;
            case OPTION_TIER: a->tier = optarg; break;
            case 'p': a->profile = true; break;
            case 'k': fits = read_count(optarg, 1, &a->top); break;
            case 'r': fits = read_count(optarg, 1, &a->repeat); break;
            case 't': fits = read_count(optarg, 1, &a->threads); break;
            case OPTION_WARM_UP: fits = read_count(optarg, 0, &a->warm_up); break;
            case OPTION_SECONDS: fits = read_seconds(optarg, &a->seconds); break;
            case OPTION_WARM_UP_SECONDS: fits = read_seconds(optarg, &a->warm_up_seconds); break;
            case OPTION_MOST_SECONDS: fits = read_seconds(optarg, &a->most_seconds); break;
            case 'h': fputs(HELP, stdout); return 0;
            case OPTION_VERSION: printf("msq-run %s\n", msq_native_version()); return 0;
            default: return fail(EXIT_USAGE, usage, "%s: unknown, or its value is missing", values[optind - 1]);
        }
        if (fits) continue;
        const struct option *named = LONG;
        while (named->val != option) named++;
        return fail(EXIT_USAGE, usage, "--%s %s: not a number that it takes", named->name, optarg);
    }
    if (optind != count - 1) return fail(EXIT_USAGE, usage, "one bundle is wanted, %d are named", count - optind);
    a->bundle = values[optind];
    if (a->input == NULL && (a->labels || a->output || a->tensors || a->top || a->repeat || a->profile))
        return fail(EXIT_USAGE, usage, "there is no --input to do that with");
    if (a->tensors && (a->repeat || a->profile))
        return fail(EXIT_USAGE, usage, "--tensors runs without fusion: there is no time to be taken");
    return -1;
}

static double seconds(void) {
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (double)now.tv_sec + 1e-9 * (double)now.tv_nsec;
}

/* A run: the model, its images as they come, and what is wanted of them. */
typedef struct {
    const arguments *asked;
    msq_manifest manifest;
    msq_model *model;
    msq_tensor_info in, out;
    msq_npy images, labels;
    float *pixel_values; /* (channels, 256) */
    uint8_t *pixels;
    float *x, *y;
    FILE *output, *tensors;
    int64_t total, done, correct;
    double began;
} run;

static int open_images(run *r) {
    msq_status status = msq_npy_open(&r->images, r->asked->input);
    if (status) return failed(status);
    const bool is_float = !strcmp(r->images.type, "f4");
    bool fits = (is_float || !strcmp(r->images.type, "u1")) && r->images.rank == r->in.rank + 1;
    for (int32_t i = 0; fits && i < r->in.rank; i++) fits = r->images.shape[i + 1] == r->in.shape[i];
    if (!fits)
        return fail(EXIT_DATA, "see the bundle's manifest.json for its input",
                    "%s: not float32 or uint8 images of %d × %d × %d", r->asked->input, r->in.shape[0], r->in.shape[1],
                    r->in.shape[2]);
    r->total = r->images.shape[0];
    r->x = malloc(r->in.count * sizeof *r->x);
    r->y = malloc(r->out.count * sizeof *r->y);
    if (!is_float) {
        const int32_t channels = r->manifest.channels;
        if (r->in.shape[r->in.rank - 1] != channels)
            return fail(EXIT_BUNDLE, "export the model again", "its manifest.json has %d channels, the model %d", channels,
                        r->in.shape[r->in.rank - 1]);
        r->pixels = malloc(r->in.count);
        r->pixel_values = malloc((size_t)channels * 256 * sizeof *r->pixel_values);
        /* As msq/preprocessing.py: every step in float32. */
        for (int32_t i = 0; r->pixel_values && i < 256 * channels; i++)
            r->pixel_values[i] = ((float)(i % 256) / 255.0f - r->manifest.mean[i / 256]) / r->manifest.std[i / 256];
    }
    if (r->x == NULL || r->y == NULL || (!is_float && (r->pixels == NULL || r->pixel_values == NULL)))
        return fail(EXIT_DEVICE, "", "no memory for an image");
    if (r->asked->labels == NULL) return 0;
    if ((status = msq_npy_open(&r->labels, r->asked->labels))) return failed(status);
    if (strcmp(r->labels.type, "i8") || r->labels.rank != 1 || r->labels.shape[0] != r->total)
        return fail(EXIT_DATA, "", "%s: not int64 labels of %lld images", r->asked->labels, (long long)r->total);
    return 0;
}

static msq_status next_image(run *r) {
    if (r->pixels == NULL) return msq_npy_read(&r->images, r->x, r->in.count * sizeof *r->x);
    const msq_status status = msq_npy_read(&r->images, r->pixels, r->in.count);
    const int32_t channels = r->manifest.channels;
    for (size_t i = 0, c = 0; status == MSQ_OK && i < r->in.count; i++, c = c + 1 == (size_t)channels ? 0 : c + 1)
        r->x[i] = r->pixel_values[c * 256 + r->pixels[i]];
    return status;
}

static msq_status infer(run *r) {
    const msq_status status =
        msq_model_run(r->model, 1, r->x, r->in.count * sizeof *r->x, r->y, r->out.count * sizeof *r->y);
    if (r->began > 0 && status == MSQ_OK) printf("{\"what\": \"first\", \"seconds\": %.9f}\n", seconds() - r->began);
    r->began = 0;
    return status;
}

/* Index of the largest output that is behind `before` in the order of size, then of index; before < 0: the first. */
static int64_t largest(const run *r, int64_t before) {
    int64_t best = -1;
    for (int64_t i = 0; i < (int64_t)r->out.count; i++) {
        if (before >= 0 && (r->y[i] > r->y[before] || (r->y[i] == r->y[before] && i <= before))) continue;
        if (best < 0 || r->y[i] > r->y[best]) best = i;
    }
    return best;
}

static void print_top(const run *r, int64_t image) {
    printf("{\"what\": \"top\", \"image\": %lld, \"classes\": [", (long long)image);
    int64_t at = -1;
    for (int32_t k = 0; k < r->asked->top && (at = largest(r, at)) >= 0; k++)
        printf("%s{\"class\": %lld, \"value\": %.9g}", k ? ", " : "", (long long)at, (double)r->y[at]);
    puts("]}");
}

/* Run until there were so many runs and seconds. Keep how long each took where times is not NULL, growing. */
static msq_status repeat(run *r, int32_t least, double least_seconds, double **times, size_t *count) {
    const double begin = seconds();
    size_t room = 0;
    for (double now = begin; (*count < (size_t)least || now - begin < least_seconds) &&
                             (*count == 0 || now - begin < r->asked->most_seconds); (*count)++) {
        if (times && *count == room) {
            double *more = realloc(*times, (room = room ? 2 * room : 256) * sizeof **times);
            if (more == NULL) return msq_fail(MSQ_MEMORY, "no memory for %zu times", room);
            *times = more;
        }
        const double start = seconds();
        const msq_status status = infer(r);
        if (status) return status;
        now = seconds();
        if (times) (*times)[*count] = now - start;
    }
    return MSQ_OK;
}

static int time_runs(run *r) {
    double *times = NULL;
    size_t warm = 0, count = 0;
    msq_status status = repeat(r, r->asked->warm_up, r->asked->warm_up_seconds, NULL, &warm);
    msq_say_conditions();
    if (status == MSQ_OK) status = repeat(r, r->asked->repeat, r->asked->seconds, &times, &count);
    if (status == MSQ_OK) {
        printf("{\"what\": \"latency\", \"seconds\": [");
        for (size_t i = 0; i < count; i++) printf("%s%.9f", i ? ", " : "", times[i]);
        puts("]}");
        msq_say_conditions();
    }
    free(times);
    return status ? failed(status) : 0;
}

static int run_images(run *r) {
    int64_t predictions[REPORT_EVERY];
    int32_t kept = 0;
    int code;
    if (r->output) {
        int64_t shape[MSQ_MOST_RANK + 1] = {r->total};
        for (int32_t i = 0; i < r->out.rank; i++) shape[i + 1] = r->out.shape[i];
        msq_npy_write_header(r->output, r->out.rank + 1, shape);
    }
    for (int64_t image = 0; image < r->total; image++) {
        msq_status status = next_image(r);
        if (status) return failed(status);
        if (image == 0 && r->asked->repeat && (code = time_runs(r))) return code;
        if ((status = infer(r))) return failed(status);
        r->done = image + 1;
        predictions[kept++] = largest(r, -1);
        if (r->asked->top) print_top(r, image);
        if (r->output) fwrite(r->y, sizeof *r->y, r->out.count, r->output);
        if (r->labels.stream) {
            int64_t label;
            if ((status = msq_npy_read(&r->labels, &label, sizeof label))) return failed(status);
            r->correct += label == predictions[kept - 1];
        }
        if (kept < REPORT_EVERY && r->done < r->total) continue;
        printf("{\"what\": \"images\", \"done\": %lld, \"total\": %lld, \"predictions\": [", (long long)r->done,
               (long long)r->total);
        for (int32_t i = 0; i < kept; i++) printf("%s%lld", i ? ", " : "", (long long)predictions[i]);
        puts("]}");
        fflush(stdout);
        kept = 0;
    }
    if (r->labels.stream)
        printf("{\"what\": \"accuracy\", \"correct\": %lld, \"total\": %lld}\n", (long long)r->correct,
               (long long)r->total);
    return 0;
}

static void print_profile(const run *r) {
    printf("{\"what\": \"profile\", \"nodes\": [");
    for (int32_t i = 0; i < msq_model_nodes(r->model); i++) {
        msq_node_info node;
        msq_model_node(r->model, i, &node);
        printf("%s{\"name\": ", i ? ", " : "");
        msq_say_string(node.name);
        printf(", \"kind\": \"%s\", \"fused\": %s, \"runs\": %llu, \"seconds\": %.9f, \"arena_bytes\": %zu}", node.kind,
               node.is_fused ? "true" : "false", (unsigned long long)node.runs, 1e-9 * (double)node.nanoseconds,
               node.arena_bytes);
    }
    puts("]}");
}

static void write_tensor(void *context, int32_t image, const msq_tensor_info *tensor, const void *data) {
    run *r = context;
    (void)image; /* of this call, which is of one */
    fwrite(data, tensor->dtype == MSQ_FLOAT32 ? sizeof(float) : 1, tensor->count, r->tensors);
    if (r->done) return;
    printf("{\"what\": \"tensor\", \"name\": ");
    msq_say_string(tensor->name);
    printf(", \"dtype\": \"%s\", \"shape\": [", tensor->dtype == MSQ_FLOAT32 ? "float32" : "int8");
    for (int32_t i = 0; i < tensor->rank; i++) printf("%s%d", i ? ", " : "", tensor->shape[i]);
    puts("]}");
}

static int load(run *r) {
    const arguments *a = r->asked;
    const double begin = seconds();
    msq_status status = a->tier ? msq_use_tier(a->tier) : MSQ_OK;
    if (status) return failed(status);
    if ((status = msq_manifest_read(&r->manifest, a->bundle))) return failed(status);
    const msq_options options = {MSQ_NATIVE_ABI, a->threads, a->tensors == NULL};
    if ((status = msq_model_load(a->bundle, &options, &r->model))) return failed(status);
    msq_mark_memory();
    msq_memory_info memory;
    msq_model_memory(r->model, &memory);
    msq_model_input(r->model, &r->in);
    msq_model_output(r->model, &r->out);
    const double loaded = seconds() - begin;
    struct utsname system = {0};
    uname(&system);
    printf("{\"what\": \"model\", \"version\": \"%s\", \"machine\": \"%s\", \"kernel\": ", msq_native_version(),
           system.machine);
    msq_say_string(system.release);
    printf(", \"tier\": \"%s\", \"threads\": %d, \"load_seconds\": %.9f, \"weight_bytes\": %zu, \"arena_bytes\": %zu, "
           "\"arena_bound_bytes\": %zu}\n", msq_tier_name(), a->threads, loaded, memory.weights, memory.arena,
           memory.arena_bound);
    return 0;
}

static FILE *created(const char *path) { return path ? fopen(path, "wb") : NULL; }

/* Close a file that was written, and say whether all of it was. */
static bool closed(FILE *file) {
    if (file == NULL) return true;
    const bool is_whole = !ferror(file);
    return fclose(file) == 0 && is_whole;
}

static int work(run *r) {
    const arguments *a = r->asked;
    int code = load(r);
    if (code || a->input == NULL) return code;
    if ((code = open_images(r))) return code;
    r->output = created(a->output);
    r->tensors = created(a->tensors);
    if ((a->output && r->output == NULL) || (a->tensors && r->tensors == NULL))
        return fail(EXIT_STORAGE, "", "%s: %s", a->output && r->output == NULL ? a->output : a->tensors, strerror(errno));
    if (r->tensors) msq_model_watch(r->model, write_tensor, r);
    if (a->profile) msq_model_profile(r->model, 1);
    if ((code = run_images(r))) return code;
    if (a->profile) print_profile(r);
    msq_say_memory();
    const bool output = closed(r->output), tensors = closed(r->tensors);
    r->output = r->tensors = NULL;
    return output && tensors ? 0 : fail(EXIT_STORAGE, "is the disk full?", "the output could not be written whole");
}

int main(int count, char **values) {
    arguments a;
    run r = {.began = seconds()};
    int code = read_arguments(&a, count, values);
    if (code >= 0) return code;
    r.asked = &a;
    code = work(&r);
    closed(r.output);
    closed(r.tensors);
    msq_npy_close(&r.images);
    msq_npy_close(&r.labels);
    msq_model_free(r.model);
    free(r.x);
    free(r.y);
    free(r.pixels);
    free(r.pixel_values);
    return code;
}
