/* A strict reader of RFC 8259, without recursion. */
#include "json.h"

#include <ctype.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "tier.h"

enum { MOST_DEPTH = 32, MOST_VALUES = 1 << 22, MOST_DIGITS = 64 };

typedef struct {
    msq_json *json;
    const char *begin, *at, *end;
} reader;

msq_status msq_json_add(msq_json *json, msq_json_kind kind, const char *at) {
    if (json->count == json->room) {
        const int32_t room = json->room ? 2 * json->room : 64;
        msq_json_value *values = room > MOST_VALUES ? NULL : realloc(json->values, (size_t)room * sizeof *values);
        if (values == NULL) return msq_fail(MSQ_MEMORY, "no memory for so many values");
        json->values = values;
        json->room = room;
    }
    json->values[json->count] = (msq_json_value){.kind = kind, .at = at, .number = NAN, .next = json->count + 1};
    json->count++;
    return MSQ_OK;
}

static msq_status broken(const reader *r, const char *what) {
    return msq_fail(MSQ_FILE, "not JSON at byte %zu: %s", (size_t)(r->at - r->begin), what);
}

static void skip_space(reader *r) {
    while (r->at < r->end && (*r->at == ' ' || *r->at == '\n' || *r->at == '\t' || *r->at == '\r')) r->at++;
}

static bool is_digit(const reader *r) { return r->at < r->end && *r->at >= '0' && *r->at <= '9'; }

static bool skip_digits(reader *r) {
    if (!is_digit(r)) return false;
    while (is_digit(r)) r->at++;
    return true;
}

static bool skip_number(reader *r) {
    if (*r->at == '-') r->at++;
    if (is_digit(r) && *r->at == '0')
        r->at++;
    else if (!skip_digits(r))
        return false;
    if (r->at < r->end && *r->at == '.') {
        r->at++;
        if (!skip_digits(r)) return false;
    }
    if (r->at < r->end && (*r->at == 'e' || *r->at == 'E')) {
        r->at++;
        if (r->at < r->end && (*r->at == '+' || *r->at == '-')) r->at++;
        if (!skip_digits(r)) return false;
    }
    return true;
}

/* Bytes of the UTF-8 character at a place; 0 if there is none. */
static size_t character(const reader *r) {
    const unsigned char *at = (const unsigned char *)r->at, first = *at;
    if (first < 0x80) return 1;
    const size_t size = first < 0xc2 || first > 0xf4 ? 0 : first < 0xe0 ? 2 : first < 0xf0 ? 3 : 4;
    if (size == 0 || (size_t)(r->end - r->at) < size) return 0;
    /* No longer than it need be, no half of a pair, and not beyond the last one. */
    if (at[1] < (first == 0xe0 ? 0xa0 : first == 0xf0 ? 0x90 : 0x80)) return 0;
    if (at[1] > (first == 0xed ? 0x9f : first == 0xf4 ? 0x8f : 0xbf)) return 0;
    for (size_t i = 2; i < size; i++)
        if ((at[i] & 0xc0) != 0x80) return 0;
    return size;
}

/* From behind the backslash to the last character of an escape. */
static bool skip_escape(reader *r) {
    if (r->at == r->end || *r->at == 0 || strchr("\"\\/bfnrtu", *r->at) == NULL) return false;
    for (int left = *r->at == 'u' ? 4 : 0; left > 0; left--)
        if (++r->at == r->end || !isxdigit((unsigned char)*r->at)) return false;
    return true;
}

/* From behind the opening quote to the closing one. */
static bool skip_string(reader *r) {
    while (r->at < r->end && *r->at != '"') {
        if ((unsigned char)*r->at < 0x20) return false;
        if (*r->at == '\\') {
            r->at++;
            if (!skip_escape(r)) return false;
        }
        const size_t size = character(r);
        if (size == 0) return false;
        r->at += size;
    }
    return r->at < r->end;
}

static msq_status word(reader *r, const char *text, msq_json_kind kind) {
    const size_t size = strlen(text);
    if ((size_t)(r->end - r->at) < size || memcmp(r->at, text, size)) return broken(r, "an unknown word");
    const msq_status status = msq_json_add(r->json, kind, r->at);
    r->at += size;
    return status;
}

static msq_status string(reader *r) {
    const int32_t value = r->json->count;
    const msq_status status = msq_json_add(r->json, JSON_STRING, ++r->at);
    if (status) return status;
    const char *const begin = r->at;
    if (!skip_string(r)) return broken(r, "a string that does not end, or holds what it must not");
    r->json->values[value].size = (size_t)(r->at++ - begin);
    return MSQ_OK;
}

static msq_status scalar(reader *r) {
    switch (*r->at) {
        case '"': return string(r);
        case 't': return word(r, "true", JSON_TRUE);
        case 'f': return word(r, "false", JSON_FALSE);
        case 'n': return word(r, "null", JSON_NULL);
        default: break;
    }
    const int32_t value = r->json->count;
    const msq_status status = msq_json_add(r->json, JSON_NUMBER, r->at);
    if (status) return status;
    const char *const begin = r->at;
    if (!skip_number(r)) return broken(r, "a value is wanted");
    const size_t size = (size_t)(r->at - begin);
    if (size > MOST_DIGITS) return broken(r, "a number of so many digits");
    char digits[MOST_DIGITS + 1] = {0};
    memcpy(digits, begin, size);
    r->json->values[value].number = strtod(digits, NULL);
    return MSQ_OK;
}

static msq_status parse(reader *r) {
    int32_t open[MOST_DEPTH], depth = 0;
    bool first = true; /* of what is open */
    for (;;) {
        skip_space(r);
        if (depth) {
            const int32_t inner = open[depth - 1];
            const bool is_object = r->json->values[inner].kind == JSON_OBJECT;
            if (r->at == r->end) return broken(r, "it ends too early");
            if (*r->at == (is_object ? '}' : ']')) {
                r->at++;
                r->json->values[inner].next = r->json->count;
                depth--;
                first = false;
                if (depth == 0) break;
                continue;
            }
            if (!first) {
                if (*r->at != ',') return broken(r, "a comma is wanted");
                r->at++;
                skip_space(r);
                if (r->at == r->end) return broken(r, "it ends too early");
            }
            if (is_object) {
                if (*r->at != '"') return broken(r, "a name is wanted");
                const msq_status status = string(r);
                if (status) return status;
                skip_space(r);
                if (r->at == r->end || *r->at != ':') return broken(r, "a colon is wanted");
                r->at++;
                skip_space(r);
            }
        }
        if (r->at == r->end) return broken(r, "it ends too early");
        if (*r->at == '{' || *r->at == '[') {
            if (depth == MOST_DEPTH) return broken(r, "too much within one another");
            open[depth++] = r->json->count;
            const msq_status status = msq_json_add(r->json, *r->at == '{' ? JSON_OBJECT : JSON_ARRAY, r->at);
            if (status) return status;
            r->at++;
            first = true;
            continue;
        }
        const msq_status status = scalar(r);
        if (status) return status;
        first = false;
        if (depth == 0) break;
    }
    skip_space(r);
    return r->at == r->end ? MSQ_OK : broken(r, "something follows");
}

msq_status msq_json_parse(msq_json *json, const char *text, size_t size) {
    *json = (msq_json){0};
    if (size == 0) text = ""; /* an empty file is mapped nowhere */
    reader r = {.json = json, .begin = text, .at = text, .end = text + size};
    const msq_status status = parse(&r);
    if (status) msq_json_free(json);
    return status;
}

void msq_json_free(msq_json *json) {
    free(json->values);
    *json = (msq_json){0};
}

bool msq_json_is(const msq_json *json, int32_t value, msq_json_kind kind) {
    return value >= 0 && value < json->count && json->values[value].kind == kind;
}

int32_t msq_json_member(const msq_json *json, int32_t object, const char *name) {
    if (!msq_json_is(json, object, JSON_OBJECT)) return -1;
    for (int32_t key = msq_json_first(json, object); key >= 0; key = msq_json_next(json, object, key + 1))
        if (msq_json_equals(json, key, name)) return key + 1;
    return -1;
}

int32_t msq_json_first(const msq_json *json, int32_t parent) {
    if (!msq_json_is(json, parent, JSON_OBJECT) && !msq_json_is(json, parent, JSON_ARRAY)) return -1;
    return json->values[parent].next > parent + 1 ? parent + 1 : -1;
}

int32_t msq_json_next(const msq_json *json, int32_t parent, int32_t value) {
    const int32_t next = json->values[value].next;
    return next < json->values[parent].next ? next : -1;
}

bool msq_json_double(const msq_json *json, int32_t value, double *out) {
    if (!msq_json_is(json, value, JSON_NUMBER)) return false;
    *out = json->values[value].number;
    return isfinite(*out);
}

bool msq_json_int(const msq_json *json, int32_t value, int64_t low, int64_t high, int64_t *out) {
    double number;
    if (!msq_json_double(json, value, &number) || number != rint(number)) return false;
    if (number < (double)low || number > (double)high || fabs(number) > 0x1p53) return false;
    *out = (int64_t)number;
    return true;
}

bool msq_json_equals(const msq_json *json, int32_t value, const char *text) {
    if (!msq_json_is(json, value, JSON_STRING)) return false;
    const size_t size = strlen(text);
    return json->values[value].size == size && memcmp(json->values[value].at, text, size) == 0;
}
