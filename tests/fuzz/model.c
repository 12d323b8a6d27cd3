/* The loader, from memory: the input is model.json, a zero byte, a byte that says how it is loaded, and weights.bin.
 *
 * What loads is run on zeros and on a ramp: fused, on a tier and with threads that the byte says, and plainly on the
 * scalar tier. Both must give the same bytes. */
#include <math.h>

#include "fuzz.h"
#include "msq_native.h"

msq_status fuzz_status;

/* What takes more than this is loaded, not run: it may be right, and take long. */
enum { MOST_ARENA = 1 << 19, MOST_FLOATS = 1 << 14, IMAGES = 2 };

typedef struct {
    const char *json;
    const uint8_t *weights;
    size_t json_bytes, weight_bytes;
} bundle;

static msq_model *load(const bundle *b, const char *tier, int32_t threads, int32_t fuse) {
    const msq_options options = {MSQ_NATIVE_ABI, threads, fuse};
    msq_model *model;
    if (msq_use_tier(tier)) must(msq_use_tier(NULL) == MSQ_OK); /* a processor that lacks it */
    const msq_status status = msq_model_load_memory(b->json, b->json_bytes, b->weights, b->weight_bytes, &options, &model);
    must((fuzz_result(status) == MSQ_OK) == (model != NULL));
    return model;
}

static void look(void *context, int32_t image, const msq_tensor_info *tensor, const void *data) {
    (void)image;
    must(tensor->count && data && *tensor->name);
    ++*(int32_t *)context;
}

static bool is_small(const msq_model *model) {
    msq_memory_info memory;
    msq_tensor_info in, out;
    msq_model_memory(model, &memory);
    msq_model_input(model, &in);
    msq_model_output(model, &out);
    return memory.arena <= MOST_ARENA && in.count <= MOST_FLOATS && out.count <= MOST_FLOATS;
}

/* The outputs of both images. */
static float *outputs(msq_model *model) {
    msq_tensor_info in, out;
    msq_model_input(model, &in);
    msq_model_output(model, &out);
    must(in.dtype == MSQ_FLOAT32 && out.dtype == MSQ_FLOAT32 && in.count && out.count);
    const size_t read = IMAGES * in.count * sizeof(float), written = IMAGES * out.count * sizeof(float);
    float *x = fuzz_room(read), *y = fuzz_room(written);
    for (size_t i = 0; i < in.count; i++) {
        x[i] = 0;
        x[in.count + i] = 0.25f * (float)((int)(i % 61) - 30);
    }
    int32_t seen = 0, made = 0;
    msq_model_watch(model, look, &seen);
    must(fuzz_result(msq_model_run(model, IMAGES, x, read, y, written)) == MSQ_OK);
    for (int32_t i = 0; i < msq_model_nodes(model); i++) {
        msq_node_info node;
        msq_model_node(model, i, &node);
        made += !node.is_fused;
    }
    must(seen == IMAGES * made);
    x[0] = NAN;
    must(msq_model_run(model, IMAGES, x, read, y + 1, written - 1) == MSQ_INPUT);
    must(msq_model_run(model, 1, x, read / IMAGES, y, written / IMAGES) == MSQ_INPUT);
    free(x);
    return y;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    const uint8_t *zero = memchr(data, 0, size);
    bundle b = {.json_bytes = zero ? (size_t)(zero - data) : size};
    const size_t behind = size - b.json_bytes;
    const uint8_t how = behind > 1 ? zero[1] : 0;
    b.weight_bytes = behind > 2 ? behind - 2 : 0;
    /* Both as large as they are and no larger. */
    char *json = malloc(b.json_bytes ? b.json_bytes : 1);
    uint8_t *weights = fuzz_room(b.weight_bytes);
    must(json);
    memcpy(json, data, b.json_bytes);
    memcpy(weights, data + size - b.weight_bytes, b.weight_bytes);
    b.json = json;
    b.weights = weights;
    msq_model *plain = load(&b, "scalar", 1, 0);
    msq_model *model = load(&b, msq_built_tier(how >> 1 & 3), 1 + (how & 1), 1);
    const msq_status status = fuzz_status;
    free(json); /* not needed once a model is loaded */
    /* What is loaded with one is loaded with the other, unless memory ends. */
    if (status != MSQ_MEMORY && plain == NULL) must(model == NULL);
    if (plain && model && is_small(plain) && is_small(model)) {
        float *one = outputs(plain), *two = outputs(model);
        msq_tensor_info out;
        msq_model_output(model, &out);
        must(memcmp(one, two, IMAGES * out.count * sizeof *one) == 0);
        free(one);
        free(two);
    }
    fuzz_status = status;
    msq_model_free(plain);
    msq_model_free(model);
    free(weights);
    return 0;
}
