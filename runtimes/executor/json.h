/* JSON as it lies in memory: a text is checked once and cut into values, which refer to it. */
#ifndef MSQ_JSON_H
#define MSQ_JSON_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "msq_kernels.h"

typedef enum { JSON_NULL, JSON_FALSE, JSON_TRUE, JSON_NUMBER, JSON_STRING, JSON_ARRAY, JSON_OBJECT } msq_json_kind;

typedef struct {
    msq_json_kind kind;
    const char *at; /* of a string: its first character */
    size_t size;
    double number;
    int32_t next; /* the value behind this one and all that is in it */
} msq_json_value;

/* Values in the order of the text, the root first; an object's keys and values take turns. An index below 0 stands for
 * a value that is not there, and all functions take it for one of the wrong kind. */
typedef struct {
    msq_json_value *values;
    int32_t count, room;
} msq_json;

/* Cut a text of `size` bytes, which must outlive the result. MSQ_FILE: it is not JSON; the message names the byte. */
msq_status msq_json_parse(msq_json *json, const char *text, size_t size);
void msq_json_free(msq_json *json);

/* Append a value, whose index is the count before. It holds nothing: `next` is set again when a container is full. */
msq_status msq_json_add(msq_json *json, msq_json_kind kind, const char *at);

bool msq_json_is(const msq_json *json, int32_t value, msq_json_kind kind);

/* The value of an object's member; −1 if it has none of that name. */
int32_t msq_json_member(const msq_json *json, int32_t object, const char *name);

/* The first value of an array or the first key of an object, and the one behind a value; −1 at the end of `parent`. */
int32_t msq_json_first(const msq_json *json, int32_t parent);
int32_t msq_json_next(const msq_json *json, int32_t parent, int32_t value);

/* Read a number; false if it is none, or no whole one within low..high. */
bool msq_json_int(const msq_json *json, int32_t value, int64_t low, int64_t high, int64_t *out);
bool msq_json_double(const msq_json *json, int32_t value, double *out);

/* Whether a value is this string, compared as it is written: escapes are not resolved. */
bool msq_json_equals(const msq_json *json, int32_t value, const char *text);

#endif
