/* How libFuzzer changes inputs that begin with JSON: value by value, so that most of them are read to their end. What lies
 * behind a zero byte, and what is no JSON, is changed byte by byte as libFuzzer does by itself. */
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#include "json.h"

size_t LLVMFuzzerMutate(uint8_t *data, size_t size, size_t most);
size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t most, unsigned seed);

typedef struct {
    const char *begin;
    size_t size;
} span;

static uint32_t state;

static uint32_t random_below(uint32_t count) {
    state = state * 1664525 + 1013904223;
    return (uint32_t)((uint64_t)state * count >> 32);
}

/* A value's text, with quotes or brackets. */
static span span_of(const msq_json *json, int32_t value, const char *end) {
    const msq_json_value *v = &json->values[value];
    if (v->kind == JSON_STRING) return (span){v->at - 1, v->size + 2};
    if (v->kind == JSON_NUMBER) return (span){v->at, v->size};
    if (v->kind < JSON_NUMBER) return (span){v->at, v->kind == JSON_FALSE ? 5 : 4};
    int32_t depth = 0;
    bool quoted = false;
    const char *at = v->at;
    for (; at < end; at++) {
        if (quoted && *at == '\\')
            at++;
        else if (*at == '"')
            quoted = !quoted;
        else if (!quoted && (*at == '[' || *at == '{'))
            depth++;
        else if (!quoted && (*at == ']' || *at == '}') && --depth == 0)
            break;
    }
    return (span){v->at, (size_t)(at - v->at) + 1};
}

static int32_t another(const msq_json *json, int32_t value) {
    int32_t found = value;
    for (int i = 0; i < 20 && (found == value || json->values[found].kind != json->values[value].kind); i++)
        found = (int32_t)random_below((uint32_t)json->count);
    return found;
}

static span number_near(const msq_json *json, int32_t value, char room[64]) {
    static const char *const KNOWN[] = {"0", "1", "-1", "2", "3", "127", "128", "-128", "255", "1024", "4096", "65536",
                                        "16777216", "2147483647", "2147483648", "4294967296", "9223372036854775807",
                                        "1e-45", "1e38", "3e38", "1e308", "0.5", "null", "[]"};
    double number = 0;
    msq_json_double(json, value, &number);
    switch (random_below(4)) {
        case 0: snprintf(room, 64, "%.17g", number + (double)random_below(5) - 2); break;
        case 1: snprintf(room, 64, "%.17g", number * 2); break;
        case 2: snprintf(room, 64, "%.17g", number / 64); break;
        default: snprintf(room, 64, "%s", KNOWN[random_below(sizeof KNOWN / sizeof *KNOWN)]); break;
    }
    return (span){room, strlen(room)};
}

/* Put `by` in place of some bytes of a text; return its size, as before where there is no room. */
static size_t replace(char *text, size_t size, size_t most, span old, span by) {
    static char kept[1 << 16];
    const size_t at = (size_t)(old.begin - text), behind = at + old.size;
    if (by.size > sizeof kept || size - old.size + by.size > most) return size;
    memcpy(kept, by.begin, by.size); /* it may be a part of the text */
    memmove(text + at + by.size, text + behind, size - behind);
    memcpy(text + at, kept, by.size);
    return size - old.size + by.size;
}

static size_t mutate_json(char *text, size_t size, size_t most) {
    msq_json json;
    if (msq_json_parse(&json, text, size)) return LLVMFuzzerMutate((uint8_t *)text, size, most);
    const int32_t value = (int32_t)random_below((uint32_t)json.count);
    const char *const end = text + size;
    const span old = span_of(&json, value, end);
    char room[64];
    switch (random_below(5)) {
        case 0: { /* twice, or a list's first one again and again */
            static char twice[1 << 14];
            if (2 * old.size + 1 > sizeof twice) break;
            memcpy(twice, old.begin, old.size);
            twice[old.size] = ',';
            memcpy(twice + old.size + 1, old.begin, old.size);
            size = replace(text, size, most, old, (span){twice, 2 * old.size + 1});
            break;
        }
        case 1: { /* away, with the comma before or behind it */
            span gone = old;
            if (gone.begin > text && gone.begin[-1] == ',') {
                gone.begin--;
                gone.size++;
            } else if (gone.begin + gone.size < end && gone.begin[gone.size] == ',') {
                gone.size++;
            }
            size = replace(text, size, most, gone, (span){"", 0});
            break;
        }
        case 2: size = replace(text, size, most, old, span_of(&json, another(&json, value), end)); break;
        default: {
            const int32_t number = another(&json, value); /* of values, most are numbers */
            if (!msq_json_is(&json, number, JSON_NUMBER)) {
                size = replace(text, size, most, old, span_of(&json, number, end));
                break;
            }
            size = replace(text, size, most, span_of(&json, number, end), number_near(&json, number, room));
        }
    }
    msq_json_free(&json);
    return size;
}

size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t most, unsigned seed) {
    state = seed;
    const uint8_t *zero = memchr(data, 0, size);
    const size_t text = zero ? (size_t)(zero - data) : size, behind = size - text;
    const uint32_t how = random_below(16);
    if (how == 0 || text == 0) return LLVMFuzzerMutate(data, size, most);
    if (how < 5 && behind > 1) return text + 1 + LLVMFuzzerMutate(data + text + 1, behind - 1, most - text - 1);
    /* The text is changed where it has room to grow, and what was behind it follows again. */
    static uint8_t rest[1 << 20];
    if (behind > sizeof rest || most < size) return LLVMFuzzerMutate(data, size, most);
    memcpy(rest, data + text, behind);
    size_t changed = text;
    for (uint32_t times = 1 + random_below(3); times > 0; times--)
        changed = mutate_json((char *)data, changed, most - behind);
    memcpy(data + changed, rest, behind);
    return changed + behind;
}
