/* A layer as the kernels' callers describe it: the input is a description, and what its arrays are filled with.
 *
 * What is small is run too, to sums and to codes, on a tier and on the scalar one, which must agree. All that a call
 * reads or writes is as large as it must be and no larger. */
#include "fuzz.h"

msq_status fuzz_status;

enum { MOST_OUTPUTS = 1 << 16, MOST_BYTES = 1 << 16, MOST_WORKSPACE = 1 << 20, MOST_WORK = 1 << 22 };

/* As it lies in the input; `lie` has a bit for each thing that is not as the header wants it. */
typedef struct {
    uint8_t tier, threads, adds, lie;
    int32_t bits, a, z, outputs, inputs, groups, depthwise, kernel[2], stride[2], dilation[2], padding[4];
    float input_scale, output_scale;
    int32_t input_zero, output_zero, low, high, batch, height, width;
    float ratio, residual_ratio;
    int8_t zero, sum_zero, unused[2];
} description;

typedef struct {
    description is;
    const uint8_t *data; /* what arrays are filled with */
    size_t size;
    uint8_t *scale, *bias, *packed; /* or NULL: too large */
    size_t packed_bytes;
} input;

static bool lies(const input *in, int bit) { return in->is.lie >> bit & 1; }

static uint8_t *filled(const input *in, size_t bytes, size_t from) {
    uint8_t *room = fuzz_room(bytes);
    fuzz_fill(room, bytes, in->data + from, in->size - from);
    return room;
}

static void make_arrays(input *in) {
    const description *d = &in->is;
    if (d->outputs >= 1 && d->outputs <= MOST_OUTPUTS) {
        in->scale = filled(in, (size_t)d->outputs * 4, 0);
        in->bias = filled(in, (size_t)d->outputs * 4, in->size / 2);
    }
    /* In double, products stay products whatever their factors are. */
    const double taps = (double)d->kernel[0] * d->kernel[1], codes = taps * d->inputs * d->outputs;
    if (taps < 1 || taps > MOST_BYTES || codes < 1 || codes > MOST_BYTES || d->bits < 0 || d->bits > 8) return;
    in->packed_bytes = msq_packed_bytes(d->outputs, d->inputs, d->kernel[0] * d->kernel[1], d->bits, d->depthwise);
    in->packed = filled(in, in->packed_bytes, 0);
}

static msq_layer *create(const input *in, const char *tier) {
    const description *d = &in->is;
    const msq_layer_spec spec = {
        .abi = MSQ_KERNELS_ABI + lies(in, 0),
        .bits = d->bits,
        .a = d->a,
        .z = d->z,
        .outputs = d->outputs,
        .inputs = d->inputs,
        .groups = d->groups,
        .depthwise = d->depthwise,
        .kernel = {d->kernel[0], d->kernel[1]},
        .stride = {d->stride[0], d->stride[1]},
        .dilation = {d->dilation[0], d->dilation[1]},
        .padding = {d->padding[0], d->padding[1], d->padding[2], d->padding[3]},
        .packed = in->packed ? in->packed + lies(in, 1) : NULL,
        .packed_bytes = in->packed_bytes - lies(in, 2),
        .weight_scale = (const void *)in->scale,
        .bias = (const void *)in->bias,
        .input_scale = d->input_scale,
        .output_scale = d->output_scale,
        .input_zero = d->input_zero,
        .output_zero = d->output_zero,
        .low = d->low,
        .high = d->high,
    };
    msq_layer *layer;
    if (msq_use_tier(tier)) must(msq_use_tier(NULL) == MSQ_OK); /* a processor that lacks it */
    must((fuzz_result(msq_layer_create(&spec, &layer)) == MSQ_OK) == (layer != NULL));
    return layer;
}

/* Elements of what a call makes; 0 where the call is refused, or would take long. */
static size_t count_of(const input *in, const msq_layer *layer) {
    const description *d = &in->is;
    int32_t size[2];
    size_t bytes;
    if (fuzz_result(msq_layer_output(layer, d->height, d->width, size)) ||
        fuzz_result(msq_layer_workspace(layer, d->batch, d->height, d->width, NULL, &bytes)))
        return 0;
    const double count = (double)d->batch * size[0] * size[1] * d->outputs;
    const double read = (double)d->batch * d->height * d->width * d->inputs * d->groups;
    const double work = count * d->inputs * d->kernel[0] * d->kernel[1];
    return bytes <= MOST_WORKSPACE && read <= MOST_BYTES && count <= MOST_BYTES && work <= MOST_WORK ? (size_t)count : 0;
}

/* Run a layer to y, or else to sums. */
static msq_status run(const input *in, const msq_layer *layer, size_t count, int8_t *y, int32_t *sums) {
    static msq_threads *pool;
    const description *d = &in->is;
    if (pool == NULL) must(msq_threads_create(2, &pool) == MSQ_OK);
    msq_threads *threads = d->threads & 1 ? pool : NULL;
    size_t bytes;
    must(msq_layer_workspace(layer, d->batch, d->height, d->width, threads, &bytes) == MSQ_OK);
    const size_t pixels = (size_t)d->batch * (size_t)d->height * (size_t)d->width;
    uint8_t *x = filled(in, pixels * (size_t)d->inputs * (size_t)d->groups, 0), *values = filled(in, count, in->size / 3);
    uint8_t *workspace = fuzz_room(bytes);
    const msq_residual residual = {(int8_t *)values, d->ratio, d->residual_ratio, d->zero, d->sum_zero, -128, 127};
    const msq_call call = {
        .x = (int8_t *)x,
        .batch = d->batch,
        .height = d->height,
        .width = d->width,
        .y = y,
        .sums = sums,
        .residual = y && d->adds & 1 ? &residual : NULL,
        .workspace = workspace + lies(in, 3),
        .workspace_bytes = bytes - lies(in, 4),
    };
    const msq_status status = fuzz_result(msq_layer_run(layer, &call, threads));
    free(x);
    free(values);
    free(workspace);
    return status;
}

/* What a layer makes: sums, and behind them codes; NULL where it is refused. */
static uint8_t *results(const input *in, const msq_layer *layer, size_t count) {
    int32_t *sums = fuzz_room(count * sizeof *sums);
    int8_t *y = fuzz_room(count);
    uint8_t *both = NULL;
    if (run(in, layer, count, NULL, sums) == MSQ_OK && run(in, layer, count, y, NULL) == MSQ_OK) {
        both = malloc(count * (1 + sizeof *sums));
        must(both);
        memcpy(both, sums, count * sizeof *sums);
        memcpy(both + count * sizeof *sums, y, count);
    }
    free(sums);
    free(y);
    return both;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    input in = {.data = data + sizeof in.is};
    if (size < sizeof in.is) return 0;
    memcpy(&in.is, data, sizeof in.is);
    in.size = size - sizeof in.is;
    make_arrays(&in);
    msq_layer *plain = create(&in, "scalar"), *layer = create(&in, msq_built_tier(in.is.tier & 3));
    must((plain != NULL) == (layer != NULL));
    const size_t count = layer ? count_of(&in, layer) : 0;
    if (count && count_of(&in, plain) == count) {
        uint8_t *one = results(&in, plain, count), *two = results(&in, layer, count);
        must((one != NULL) == (two != NULL));
        if (one) must(memcmp(one, two, count * 5) == 0);
        free(one);
        free(two);
    }
    msq_layer_destroy(plain);
    msq_layer_destroy(layer);
    free(in.scale);
    free(in.bias);
    free(in.packed);
    return 0;
}
