/* A reader of FlexBuffers (flatbuffers.dev, "FlexBuffers internals"). A value is told by a byte of its type and width;
 * all but numbers and booleans lie in front of what refers to them, by an offset back. Nothing of a buffer is believed.
 */
#include "flexbuffer.h"

#include <string.h>

#include "tier.h"

enum { INT = 1, UINT, FLOAT, KEY, STRING, MAP = 9, VECTOR, VECTOR_INT, VECTOR_UINT, VECTOR_FLOAT, VECTOR_KEY };
enum { BOOL = 26 };
enum { MOST_DEPTH = 8, MOST_COUNT = 1 << 16 };
#define NOWHERE SIZE_MAX

typedef struct {
    msq_json *json;
    const uint8_t *content;
    size_t size;
} reader;

static msq_status broken(void) { return msq_fail(MSQ_FILE, "its options are cut, or no FlexBuffer"); }

static bool is_width(size_t width) { return width == 1 || width == 2 || width == 4 || width == 8; }

static uint64_t unsigned_at(const uint8_t *at, size_t width) {
    uint64_t value = 0;
    for (size_t i = 0; i < width; i++) value |= (uint64_t)at[i] << 8 * i;
    return value;
}

/* The place that an offset at `place` refers to; NOWHERE if it has not `before` bytes in front of it. */
static size_t referred(const reader *r, size_t place, size_t width, size_t before) {
    const uint64_t back = unsigned_at(r->content + place, width);
    return back <= place && place - back >= before ? place - (size_t)back : NOWHERE;
}

/* Read a count, which lies `width` bytes in front of its elements; false if they go beyond the end, of so many bytes
 * each. */
static bool counted(const reader *r, size_t elements, size_t width, size_t bytes, size_t *count) {
    const uint64_t found = unsigned_at(r->content + elements - width, width);
    *count = (size_t)found;
    return found <= MOST_COUNT && found * bytes <= r->size - elements;
}

static msq_status add_text(reader *r, size_t at, size_t size) {
    const msq_status status = msq_json_add(r->json, JSON_STRING, (const char *)r->content + at);
    if (status == MSQ_OK) r->json->values[r->json->count - 1].size = size;
    return status;
}

static msq_status add_key(reader *r, size_t at) {
    const void *end = at == NOWHERE ? NULL : memchr(r->content + at, 0, r->size - at);
    return end ? add_text(r, at, (size_t)((const uint8_t *)end - r->content) - at) : broken();
}

static double number_at(const uint8_t *at, size_t width, int type) {
    const uint64_t bits = unsigned_at(at, width);
    if (type == INT) return (double)((int64_t)(bits << (64 - 8 * width)) >> (64 - 8 * width));
    if (type != FLOAT) return (double)bits;
    float narrow;
    double number;
    memcpy(&narrow, at, sizeof narrow);
    if (width == sizeof narrow) return (double)narrow;
    memcpy(&number, at, sizeof number);
    return number;
}

/* Add the value that `width` bytes at `place` are, or refer to. told: its type and, where it lies elsewhere, its width
 * there. */
static msq_status add_value(reader *r, size_t place, size_t width, uint8_t told, int depth) {
    const int type = told >> 2;
    if (type == INT || type == UINT || type == BOOL || (type == FLOAT && width >= sizeof(float))) {
        const double number = number_at(r->content + place, width, type);
        const msq_json_kind truth = number ? JSON_TRUE : JSON_FALSE;
        const msq_status status = msq_json_add(r->json, type == BOOL ? truth : JSON_NUMBER, NULL);
        if (status == MSQ_OK) r->json->values[r->json->count - 1].number = number;
        return status;
    }
    const bool is_typed = type >= VECTOR_INT && type <= VECTOR_KEY;
    if (type != KEY && type != STRING && type != MAP && type != VECTOR && !is_typed)
        return msq_fail(MSQ_FILE, "its options hold a FlexBuffer's type %d, which no operator of ours has", type);
    const size_t inner = (size_t)1 << (told & 3);
    const size_t at = referred(r, place, width, type == KEY ? 0 : type == MAP ? 3 * inner : inner);
    size_t count, keys = 0, key_width = 0, key_count;
    if (type == KEY) return add_key(r, at);
    if (at == NOWHERE || depth == MOST_DEPTH) return broken();
    if (type == STRING) return counted(r, at, inner, 1, &count) ? add_text(r, at, count) : broken();
    if (!counted(r, at, inner, inner + !is_typed, &count)) return broken();
    if (type == MAP) {
        key_width = (size_t)unsigned_at(r->content + at - 2 * inner, inner);
        if (!is_width(key_width)) return broken();
        keys = referred(r, at - 3 * inner, inner, key_width);
        if (keys == NOWHERE || !counted(r, keys, key_width, key_width, &key_count) || key_count != count)
            return broken();
    }
    const int32_t container = r->json->count;
    msq_status status = msq_json_add(r->json, type == MAP ? JSON_OBJECT : JSON_ARRAY, NULL);
    for (size_t i = 0; i < count && status == MSQ_OK; i++) {
        if (r->json->count > MOST_COUNT) return broken(); /* parts may be shared: a small buffer can say much */
        if (type == MAP) {
            const size_t name = keys + i * key_width;
            if ((status = add_key(r, referred(r, name, key_width, 0)))) return status;
        }
        const uint8_t element =
            is_typed ? (uint8_t)((type - VECTOR_INT + INT) << 2) : r->content[at + count * inner + i];
        status = add_value(r, at + i * inner, inner, element, depth + 1);
    }
    if (status == MSQ_OK) r->json->values[container].next = r->json->count;
    return status;
}

msq_status msq_flexbuffer_parse(msq_json *json, const uint8_t *content, size_t size) {
    *json = (msq_json){0};
    reader r = {json, content, size};
    const size_t width = size >= 3 ? content[size - 1] : 0;
    msq_status status;
    if (!is_width(width) || size - 2 < width)
        status = broken();
    else
        status = add_value(&r, size - 2 - width, width, content[size - 2], 0);
    if (status) msq_json_free(json);
    return status;
}
