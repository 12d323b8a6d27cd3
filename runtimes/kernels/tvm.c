/* The hook into TVM: packed layers as functions of its FFI, linked into a model's library, which calls them by name.
 *
 *     msq_session(threads) → session               the threads and the workspace that the layers of a model share
 *     msq_layer(session, weights, spec) → layer    weights: the mapped file, uint8; spec: int32, a layer_words
 *     msq_run(layer, x, y), msq_run(layer, x, residual, y)
 *
 * A session and a layer are functions themselves: that is the one kind of object which TVM's C interface makes for
 * others, and it counts references.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "msq_kernels.h"
#include "tvm_ffi.h"

/* What export says of a layer, in words of 32 bits. Offsets, in 64 bytes, are of the weights' file. */
typedef struct {
    int32_t packed, scale, bias;
    int32_t bits, a, z, outputs, inputs, groups, depthwise;
    int32_t kernel[2], stride[2], dilation[2], padding[4];
    float input_scale, output_scale;
    int32_t input_zero, output_zero, low, high;
    /* The addition behind it, if there is one. */
    float ratio, residual_ratio;
    int32_t zero, sum_zero, sum_low, sum_high;
} layer_words;

typedef struct {
    msq_threads *threads;
    void *workspace;
    size_t workspace_bytes;
} session;

typedef struct {
    msq_layer *layer;
    msq_residual residual;
    int32_t outputs, inputs;
    session *session;
    void *held[2]; /* objects that must outlive the layer: its session, its weights */
} layer;

static int failed(const char *what) {
    char said[320];
    snprintf(said, sizeof said, "packed kernels: %s", what);
    TVMFFIErrorSetRaisedFromCStr("ValueError", said);
    return -1;
}

/* A dense tensor of bytes or words on the CPU; NULL, if the argument is none. */
static const DLTensor *tensor_of(const TVMAny *argument, uint8_t code, uint8_t bits) {
    const DLTensor *found = argument->type == TVM_TENSOR     ? (DLTensor *)((TVMObject *)argument->pointer + 1)
                            : argument->type == TVM_DLTENSOR ? argument->pointer
                                                             : NULL;
    const int fits = found && found->device_type == DL_CPU && found->code == code && found->bits == bits &&
                     found->lanes == 1;
    return fits ? found : NULL;
}

static uint8_t *bytes_of(const DLTensor *tensor) { return (uint8_t *)tensor->data + tensor->byte_offset; }

static size_t count_of(const DLTensor *tensor) {
    size_t count = 1;
    for (int32_t i = 0; i < tensor->rank; i++) count *= (size_t)tensor->shape[i];
    return count;
}

static int give(void *self, TVMCall *call, void (*destroy)(void *self), TVMAny *result) {
    void *function;
    if (TVMFFIFunctionCreate(self, call, destroy, &function)) {
        destroy(self);
        return -1;
    }
    *result = (TVMAny){.type = TVM_FUNCTION, .pointer = function};
    return 0;
}

/* Called, a session says where it lies. */
static int tell(void *self, const TVMAny *arguments, int32_t count, TVMAny *result) {
    (void)arguments, (void)count;
    *result = (TVMAny){.type = TVM_POINTER, .pointer = self};
    return 0;
}

static void end_session(void *self) {
    session *s = self;
    msq_threads_destroy(s->threads);
    free(s->workspace);
    free(s);
}

MSQ_API int __tvm_ffi_msq_session(void *self, const TVMAny *arguments, int32_t count, TVMAny *result) {
    (void)self;
    if (count != 1 || arguments->type != TVM_INT) return failed("msq_session takes a number of threads");
    const int64_t threads = arguments->integer;
    if (msq_tier_name() == NULL) return failed(msq_error());
    session *made = calloc(1, sizeof *made);
    if (made == NULL) return failed("no memory for a session");
    if (threads != 1 && msq_threads_create(threads < 1 || threads > INT32_MAX ? 0 : (int32_t)threads, &made->threads)) {
        free(made);
        return failed(msq_error());
    }
    return give(made, tell, end_session, result);
}

static void destroy_layer(void *self) {
    layer *l = self;
    msq_layer_destroy(l->layer);
    for (int i = 0; i < 2; i++)
        if (l->held[i]) TVMFFIObjectDecRef(l->held[i]);
    free(l);
}

static int run(void *self, const TVMAny *arguments, int32_t count, TVMAny *result) {
    layer *l = self;
    session *s = l->session;
    const DLTensor *x = count >= 2 ? tensor_of(&arguments[0], DL_INT, 8) : NULL;
    const DLTensor *r = count == 3 ? tensor_of(&arguments[1], DL_INT, 8) : NULL;
    const DLTensor *y = count >= 2 ? tensor_of(&arguments[count - 1], DL_INT, 8) : NULL;
    if (x == NULL || y == NULL || (count == 3 && r == NULL) || count > 3 || x->rank < 2 ||
        x->shape[x->rank - 1] != l->inputs)
        return failed("msq_run takes int8 tensors of the layer's channels");
    /* Rows of a linear layer are the pixels of an image one pixel high. */
    const int is_map = x->rank == 4;
    const size_t rows = count_of(x) / (size_t)l->inputs;
    msq_call call = {
        .x = (const int8_t *)bytes_of(x),
        .batch = is_map ? (int32_t)x->shape[0] : 1,
        .height = is_map ? (int32_t)x->shape[1] : 1,
        .width = is_map ? (int32_t)x->shape[2] : (int32_t)rows,
        .y = (int8_t *)bytes_of(y),
    };
    int32_t out[2];
    if (msq_layer_output(l->layer, call.height, call.width, out) ||
        msq_layer_workspace(l->layer, call.batch, call.height, call.width, s->threads, &call.workspace_bytes))
        return failed(msq_error());
    const size_t wanted = (size_t)call.batch * (size_t)out[0] * (size_t)out[1] * (size_t)l->outputs;
    if (count_of(y) != wanted || (r && count_of(r) != wanted)) return failed("msq_run: an output of another size");
    if (call.workspace_bytes > s->workspace_bytes) {
        free(s->workspace);
        s->workspace_bytes = (call.workspace_bytes + 63) / 64 * 64;
        s->workspace = aligned_alloc(64, s->workspace_bytes);
        if (s->workspace == NULL) {
            s->workspace_bytes = 0;
            return failed("no memory for a workspace");
        }
    }
    call.workspace = s->workspace;
    msq_residual residual = l->residual;
    if (r) {
        residual.values = (const int8_t *)bytes_of(r);
        call.residual = &residual;
    }
    *result = (TVMAny){0};
    return msq_layer_run(l->layer, &call, s->threads) ? failed(msq_error()) : 0;
}

MSQ_API int __tvm_ffi_msq_layer(void *self, const TVMAny *arguments, int32_t count, TVMAny *result) {
    (void)self;
    const DLTensor *weights = count == 3 ? tensor_of(&arguments[1], DL_UINT, 8) : NULL;
    const DLTensor *spec = count == 3 ? tensor_of(&arguments[2], DL_INT, 32) : NULL;
    layer_words w;
    if (weights == NULL || arguments[1].type != TVM_TENSOR || spec == NULL || arguments[0].type != TVM_FUNCTION ||
        count_of(spec) * sizeof(int32_t) != sizeof w)
        return failed("msq_layer takes a session, the weights' file and a layer's words");
    memcpy(&w, bytes_of(spec), sizeof w);
    TVMAny told = {0};
    if (TVMFFIFunctionCall(arguments[0].pointer, NULL, 0, &told)) return -1;

    const int64_t taps = (int64_t)w.kernel[0] * w.kernel[1];
    if (w.outputs < 1 || w.inputs < 1 || taps < 1 || taps > INT32_MAX || w.bits < 0 || w.bits > 8)
        return failed("a layer of no size");
    const size_t packed_bytes = msq_packed_bytes(w.outputs, w.inputs, (int32_t)taps, w.bits, w.depthwise);
    const int64_t begins[] = {w.packed, w.scale, w.bias};
    const size_t sizes[] = {packed_bytes, 4 * (size_t)w.outputs, 4 * (size_t)w.outputs}, whole = count_of(weights);
    const uint8_t *data[3];
    for (int i = 0; i < 3; i++) {
        const size_t begin = (size_t)begins[i] * 64;
        if (begins[i] < 0 || begin > whole || sizes[i] > whole - begin)
            return failed("the weights' file ends before a layer's weights do");
        data[i] = bytes_of(weights) + begin;
    }
    msq_layer_spec of = {
        .abi = MSQ_KERNELS_ABI,
        .bits = w.bits,
        .a = w.a,
        .z = w.z,
        .outputs = w.outputs,
        .inputs = w.inputs,
        .groups = w.groups,
        .depthwise = w.depthwise,
        .packed = w.bits ? data[0] : NULL,
        .packed_bytes = packed_bytes,
        .weight_scale = (const float *)(const void *)data[1],
        .bias = (const int32_t *)(const void *)data[2],
        .input_scale = w.input_scale,
        .output_scale = w.output_scale,
        .input_zero = w.input_zero,
        .output_zero = w.output_zero,
        .low = w.low,
        .high = w.high,
    };
    memcpy(of.kernel, w.kernel, sizeof of.kernel);
    memcpy(of.stride, w.stride, sizeof of.stride);
    memcpy(of.dilation, w.dilation, sizeof of.dilation);
    memcpy(of.padding, w.padding, sizeof of.padding);
    layer *made = calloc(1, sizeof *made);
    if (made == NULL) return failed("no memory for a layer");
    if (msq_layer_create(&of, &made->layer)) {
        free(made);
        return failed(msq_error());
    }
    made->residual = (msq_residual){
        .ratio = w.ratio,
        .residual_ratio = w.residual_ratio,
        .zero = w.zero,
        .sum_zero = w.sum_zero,
        .low = w.sum_low,
        .high = w.sum_high,
    };
    made->outputs = w.outputs;
    made->inputs = w.inputs * w.groups;
    made->session = told.pointer;
    for (int i = 0; i < 2; i++) {
        TVMFFIObjectIncRef(arguments[i].pointer);
        made->held[i] = arguments[i].pointer;
    }
    return give(made, run, destroy_layer, result);
}

MSQ_API int __tvm_ffi_msq_run(void *self, const TVMAny *arguments, int32_t count, TVMAny *result) {
    (void)self;
    if (count < 1 || arguments->type != TVM_FUNCTION) return failed("msq_run takes a layer and tensors");
    return TVMFFIFunctionCall(arguments->pointer, arguments + 1, count - 1, result);
}
