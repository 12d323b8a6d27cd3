/* The reader of what custom operators of a TFLite file say: what it takes is a tree whose texts lie in the buffer. */
#include "flexbuffer.h"

#include "fuzz.h"

msq_status fuzz_status;

/* Walk a value and all that is in it; return the index behind them. */
static int32_t walk(const msq_json *json, int32_t value, const char *begin, const char *end) {
    const msq_json_value *v = &json->values[value];
    if (v->kind == JSON_STRING) must(v->at >= begin && v->at <= end && v->size <= (size_t)(end - v->at));
    int32_t behind = value + 1;
    for (int32_t i = msq_json_first(json, value); i >= 0; i = msq_json_next(json, value, i)) {
        must(i == behind);
        behind = walk(json, i, begin, end);
    }
    must(behind == v->next);
    if (v->kind == JSON_OBJECT)
        for (int32_t key = msq_json_first(json, value); key >= 0; key = msq_json_next(json, value, key + 1))
            must(msq_json_is(json, key, JSON_STRING) && key + 1 < v->next);
    double number;
    int64_t whole;
    if (msq_json_int(json, value, INT64_MIN, INT64_MAX, &whole))
        must(msq_json_double(json, value, &number) && number == (double)whole);
    return behind;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    msq_json json;
    const char *text = (const char *)data;
    if (fuzz_result(msq_flexbuffer_parse(&json, data, size)) == MSQ_OK) {
        must(json.count > 0 && walk(&json, 0, text, text + size) == json.count);
        const int32_t name = msq_json_member(&json, 0, "bits");
        if (name >= 0) must(msq_json_equals(&json, name - 1, "bits"));
    }
    msq_json_free(&json);
    return 0;
}
