/* The weighted layers of the hook. Weights are used where ONNX Runtime holds them: if external, in the mapped file. */
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "msq_kernels.h"
#include "ort_operator.h"
#include "threads.h"

enum { MOST_SLOTS = 64, WIDTHS = 9 };
enum { CONV, DEPTHWISE, LINEAR, TOKENS, KINDS };

static const char *const KIND_NAMES[KINDS] = {"Conv", "Depthwise", "Linear", "Tokens"};

static atomic_int wanted_threads;

/* The system is asked once: it takes longer than a small layer does. */
void msq_use_threads(int32_t count) {
    const long found = count > 0 ? count : sysconf(_SC_NPROCESSORS_ONLN);
    atomic_store(&wanted_threads, found < 1 ? 1 : found > MOST_SLOTS ? MOST_SLOTS : (int32_t)found);
}

typedef struct {
    _Alignas(64) size_t bytes; /* that follow */
    _Alignas(64) uint8_t memory[];
} workspace;

typedef struct {
    const OrtApi *api;
    msq_layer *layer;
    int kind;
    int32_t outputs, inputs;
} kernel;

/* Workspaces that no call uses, for all layers: a session's layers run one after another. */
enum { SHELVES = 8 };
static _Atomic(workspace *) shelves[SHELVES];
static atomic_int kernels;

static workspace *take_workspace(size_t bytes) {
    workspace *found = NULL;
    for (int i = 0; i < SHELVES && found == NULL; i++) found = atomic_exchange(&shelves[i], NULL);
    if (found && found->bytes >= bytes) return found;
    free(found);
    bytes = (bytes + 63) / 64 * 64;
    found = aligned_alloc(64, sizeof *found + bytes);
    if (found) found->bytes = bytes;
    return found;
}

static void give_workspace(workspace *used) {
    for (int i = 0; i < SHELVES && used; i++) used = atomic_exchange(&shelves[i], used);
    free(used);
}

/* Read `count` integers of an attribute; leave them where the node has none of that name. */
static void read_integers(const OrtApi *api, const OrtKernelInfo *info, const char *name, int32_t *values,
                          size_t count) {
    int64_t found[4];
    size_t size = count;
    OrtStatus *status = ORT_KernelInfoGetAttributeArray_int64(api)(info, name, found, &size);
    if (status) {
        ORT_ReleaseStatus(api)(status);
        return;
    }
    for (size_t i = 0; i < size && i < count; i++) values[i] = (int32_t)found[i];
}

static void read_integer(const OrtApi *api, const OrtKernelInfo *info, const char *name, int32_t *value) {
    int64_t found;
    OrtStatus *status = ORT_KernelInfoGetAttribute_int64(api)(info, name, &found);
    if (status)
        ORT_ReleaseStatus(api)(status);
    else
        *value = (int32_t)found;
}

static void destroy(void *made) {
    kernel *k = made;
    msq_layer_destroy(k->layer);
    free(k);
    if (atomic_fetch_sub(&kernels, 1) > 1) return;
    for (int i = 0; i < SHELVES; i++) free(atomic_exchange(&shelves[i], NULL));
}

static OrtStatus *create(const OrtCustomOp *op, const OrtApi *api, const OrtKernelInfo *info, void **out) {
    const msq_operator *self = (const msq_operator *)op;
    const void *data[MOST_INPUTS];
    size_t counts[MOST_INPUTS];
    for (size_t i = 1; i < self->inputs; i++) TRY(msq_constant(api, info, i, self->name, &data[i], &counts[i]));
    const size_t at = self->bits ? 1 : 0; /* what follows the packed weights lies one further */
    int32_t shape[4] = {0}, given = 0;
    read_integers(api, info, "shape", shape, 4);
    msq_layer_spec spec = {
        .abi = MSQ_KERNELS_ABI,
        .bits = self->bits,
        .outputs = shape[0],
        .inputs = shape[3],
        .groups = 1,
        .depthwise = self->kind == DEPTHWISE,
        .kernel = {shape[1], shape[2]},
        .stride = {1, 1},
        .dilation = {1, 1},
        .packed = self->bits ? data[3] : NULL,
        .packed_bytes = self->bits ? counts[3] : 0,
        .weight_scale = data[3 + at],
        .bias = data[6 + at],
        .input_scale = *(const float *)data[1],
        .input_zero = *(const int8_t *)data[2],
        .output_scale = *(const float *)data[4 + at],
        .output_zero = *(const int8_t *)data[5 + at],
        .low = -128,
        .high = 127,
    };
    read_integer(api, info, "a", &spec.a);
    read_integer(api, info, "z", &spec.z);
    read_integer(api, info, "group", &given);
    if (given) spec.groups = given;
    read_integers(api, info, "strides", spec.stride, 2);
    read_integers(api, info, "dilations", spec.dilation, 2);
    read_integers(api, info, "pads", spec.padding, 4);
    if (shape[0] < 1 || counts[3 + at] != (size_t)shape[0] || counts[6 + at] != (size_t)shape[0]) {
        char said[160];
        snprintf(said, sizeof said, "%s: %zu scales and %zu biases for %d outputs", self->name, counts[3 + at],
                 counts[6 + at], shape[0]);
        return ORT_CreateStatus(api)(ORT_INVALID_ARGUMENT, said);
    }
    kernel *made = calloc(1, sizeof *made);
    if (made == NULL) return ORT_CreateStatus(api)(ORT_FAIL, "no memory for a kernel");
    *made = (kernel){.api = api, .kind = self->kind, .outputs = shape[0], .inputs = spec.inputs * spec.groups};
    atomic_fetch_add(&kernels, 1);
    if (msq_layer_create(&spec, &made->layer)) {
        destroy(made);
        return msq_failed(api, self->name);
    }
    *out = made;
    return NULL;
}

/* ONNX Runtime's own threads as a pool: parts claim a slot, which is their share of the workspace. */
typedef struct {
    msq_threads pool;
    const OrtApi *api;
    const OrtKernelContext *context;
    atomic_bool taken[MOST_SLOTS];
    void (*work)(void *context, int32_t part, int32_t thread);
    void *argument;
} session_threads;

static void run_part(void *argument, size_t part) {
    session_threads *threads = argument;
    for (int32_t slot = 0;; slot = (slot + 1) % threads->pool.count) {
        if (atomic_exchange(&threads->taken[slot], true)) continue;
        threads->work(threads->argument, (int32_t)part, slot);
        atomic_store(&threads->taken[slot], false);
        return;
    }
}

static void share(msq_threads *pool, int32_t parts, void (*work)(void *context, int32_t part, int32_t thread),
                  void *argument) {
    session_threads *threads = (session_threads *)pool;
    threads->work = work;
    threads->argument = argument;
    const size_t batches = (size_t)(parts < pool->count ? parts : pool->count);
    OrtStatus *status = ORT_KernelContext_ParallelFor(threads->api)(threads->context, run_part, (size_t)parts, batches,
                                                                    threads);
    if (status == NULL) return;
    ORT_ReleaseStatus(threads->api)(status);
    for (int32_t part = 0; part < parts; part++) work(argument, part, 0);
}

static OrtStatus *compute(void *made, OrtKernelContext *context) {
    kernel *k = made;
    const OrtApi *api = k->api;
    const OrtValue *x = NULL;
    OrtValue *y = NULL;
    int64_t sizes[4] = {0};
    size_t rank = 0;
    TRY(ORT_KernelContext_GetInput(api)(context, 0, &x));
    TRY(msq_shape_of(api, x, sizes, 4, &rank));
    const size_t wanted = k->kind == LINEAR ? 2 : k->kind == TOKENS ? 3 : 4;
    for (size_t i = 0; i < rank; i++)
        if (sizes[i] < 0 || sizes[i] > INT32_MAX) rank = 0;
    if (rank != wanted || sizes[rank - 1] != k->inputs)
        return ORT_CreateStatus(api)(ORT_INVALID_ARGUMENT, "packed kernels: the input has another shape");
    /* Rows of a linear layer are the pixels of an image one pixel high. */
    const bool is_map = wanted == 4;
    msq_call call = {
        .batch = is_map ? (int32_t)sizes[0] : 1,
        .height = is_map ? (int32_t)sizes[1] : 1,
        .width = (int32_t)(is_map ? sizes[2] : wanted == 3 ? sizes[0] * sizes[1] : sizes[0]),
    };
    int64_t result[4] = {sizes[0], sizes[1], sizes[2], sizes[3]};
    result[rank - 1] = k->outputs;
    if (is_map) {
        int32_t out[2];
        if (msq_layer_output(k->layer, call.height, call.width, out)) return msq_failed(api, "conv");
        result[1] = out[0];
        result[2] = out[1];
    }
    TRY(ORT_KernelContext_GetOutput(api)(context, 0, result, rank, &y));
    for (size_t i = 0; i < rank; i++)
        if (result[i] == 0) return NULL;
    TRY(ORT_GetTensorMutableData(api)(x, (void **)(uintptr_t)&call.x));
    TRY(ORT_GetTensorMutableData(api)(y, (void **)&call.y));

    const msq_threads own = {.count = atomic_load(&wanted_threads), .share = share};
    session_threads threads = {.pool = own, .api = api, .context = context};
    msq_threads *pool = threads.pool.count > 1 ? &threads.pool : NULL;
    if (msq_layer_workspace(k->layer, call.batch, call.height, call.width, pool, &call.workspace_bytes))
        return msq_failed(api, "workspace");
    workspace *held = take_workspace(call.workspace_bytes);
    if (held == NULL) return ORT_CreateStatus(api)(ORT_FAIL, "no memory for the packed kernels");
    call.workspace = held->memory;
    const msq_status ran = msq_layer_run(k->layer, &call, pool);
    give_workspace(held);
    return ran ? msq_failed(api, "run") : NULL;
}

OrtStatus *msq_add_layers(const OrtApi *api, OrtCustomOpDomain *domain) {
    static msq_operator operators[KINDS * WIDTHS];
    if (atomic_load(&wanted_threads) == 0) msq_use_threads(0);
    for (int i = 0; i < KINDS * WIDTHS; i++) {
        msq_operator *made = &operators[i];
        made->kind = i / WIDTHS;
        made->bits = i % WIDTHS;
        snprintf(made->name, sizeof made->name, "Packed%s%d", KIND_NAMES[made->kind], made->bits);
        /* x with its grid, packed weights if any, their scales, y's grid, bias */
        const int types[] = {ORT_INT8, ORT_FLOAT, ORT_INT8, ORT_UINT8, ORT_FLOAT, ORT_FLOAT, ORT_INT8, ORT_INT32};
        made->inputs = 0;
        for (size_t at = 0; at < sizeof types / sizeof *types; at++)
            if (made->bits || types[at] != ORT_UINT8) made->types[made->inputs++] = types[at];
        TRY(msq_add_operator(api, domain, made, create, compute, destroy));
    }
    return NULL;
}
