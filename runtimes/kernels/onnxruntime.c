/* The hook into ONNX Runtime: the operators of domain "msq" of the dual model, on the packed kernels.
 *
 * Registered with a session, they take the place of the functions of the same names that the model file defines.
 * Weights are used where ONNX Runtime holds them: of external data, in the mapped file.
 */
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "msq_kernels.h"
#include "ort_api.h"
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
    OrtCustomOp op; /* first: callbacks get its address */
    int kind, bits;
    char name[24];
} operator;

typedef struct {
    _Alignas(64) size_t bytes; /* that follow */
    _Alignas(64) uint8_t memory[];
} workspace;

typedef struct {
    const OrtApi *api;
    msq_layer *layer;
    int kind;
    int32_t outputs, inputs;
    /* The last call's workspace; a call that runs beside it makes one of its own. */
    _Atomic(workspace *) workspace;
} kernel;

static OrtStatus *failed(const OrtApi *api, const char *name) {
    char said[320];
    snprintf(said, sizeof said, "%s: packed kernels: %s", name, msq_error());
    return ORT_CreateStatus(api)(ORT_INVALID_ARGUMENT, said);
}

#define TRY(call) \
    do { \
        OrtStatus *status_ = (call); \
        if (status_) return status_; \
    } while (0)

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

/* Where a constant input lies, and how many elements it has. */
static OrtStatus *constant(const OrtApi *api, const OrtKernelInfo *info, size_t index, const char *name,
                           const void **data, size_t *count) {
    int is_constant = 0;
    const OrtValue *value = NULL;
    TRY(ORT_KernelInfoGetConstantInput_tensor(api)(info, index, &is_constant, &value));
    if (!is_constant || value == NULL) {
        char said[128];
        snprintf(said, sizeof said, "%s: input %zu must be a constant of the model", name, index);
        return ORT_CreateStatus(api)(ORT_INVALID_ARGUMENT, said);
    }
    OrtShape *shape = NULL;
    TRY(ORT_GetTensorTypeAndShape(api)(value, &shape));
    OrtStatus *status = ORT_GetTensorShapeElementCount(api)(shape, count);
    ORT_ReleaseShape(api)(shape);
    TRY(status);
    return ORT_GetTensorMutableData(api)(value, (void **)(uintptr_t)data);
}

static void destroy(void *made) {
    kernel *k = made;
    msq_layer_destroy(k->layer);
    free(atomic_load(&k->workspace));
    free(k);
}

static OrtStatus *create(const OrtCustomOp *op, const OrtApi *api, const OrtKernelInfo *info, void **out) {
    const operator *self = (const operator *)op;
    const void *data[8];
    size_t counts[8];
    const size_t inputs = self->bits ? 8 : 7;
    for (size_t i = 1; i < inputs; i++) TRY(constant(api, info, i, self->name, &data[i], &counts[i]));
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
    if (msq_layer_create(&spec, &made->layer)) {
        destroy(made);
        return failed(api, self->name);
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
    OrtShape *shape = NULL;
    int64_t sizes[4] = {0};
    size_t rank = 0;
    TRY(ORT_KernelContext_GetInput(api)(context, 0, &x));
    TRY(ORT_GetTensorTypeAndShape(api)(x, &shape));
    OrtStatus *status = ORT_GetDimensionsCount(api)(shape, &rank);
    const size_t wanted = k->kind == LINEAR ? 2 : k->kind == TOKENS ? 3 : 4;
    if (status == NULL && rank == wanted) status = ORT_GetDimensions(api)(shape, sizes, rank);
    ORT_ReleaseShape(api)(shape);
    TRY(status);
    for (size_t i = 0; i < rank; i++)
        if (sizes[i] < 0 || sizes[i] > INT32_MAX) rank = 0;
    if (rank != wanted || sizes[rank - 1] != k->inputs)
        return ORT_CreateStatus(api)(ORT_INVALID_ARGUMENT, "packed kernels: an input of another shape than the layer's");
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
        if (msq_layer_output(k->layer, call.height, call.width, out)) return failed(api, "conv");
        result[1] = out[0];
        result[2] = out[1];
    }
    TRY(ORT_KernelContext_GetOutput(api)(context, 0, result, rank, &y));
    for (size_t i = 0; i < rank; i++)
        if (result[i] == 0) return NULL;
    TRY(ORT_GetTensorMutableData(api)(x, (void **)(uintptr_t)&call.x));
    TRY(ORT_GetTensorMutableData(api)(y, (void **)&call.y));

    session_threads threads = {.pool = {.count = atomic_load(&wanted_threads), .share = share}, .api = api, .context = context};
    msq_threads *pool = threads.pool.count > 1 ? &threads.pool : NULL;
    if (msq_layer_workspace(k->layer, call.batch, call.height, call.width, pool, &call.workspace_bytes))
        return failed(api, "workspace");
    workspace *held = atomic_exchange(&k->workspace, NULL);
    if (held == NULL || held->bytes < call.workspace_bytes) {
        free(held);
        const size_t bytes = (call.workspace_bytes + 63) / 64 * 64;
        held = aligned_alloc(64, sizeof *held + bytes);
        if (held == NULL) return ORT_CreateStatus(api)(ORT_FAIL, "no memory for the packed kernels");
        held->bytes = bytes;
    }
    call.workspace = held->memory;
    const msq_status ran = msq_layer_run(k->layer, &call, pool);
    free(atomic_exchange(&k->workspace, held));
    return ran ? failed(api, "run") : NULL;
}

static const char *name_of(const OrtCustomOp *op) { return ((const operator *)op)->name; }
static const char *provider_of(const OrtCustomOp *op) {
    (void)op;
    return NULL; /* the CPU's */
}
static size_t input_count(const OrtCustomOp *op) { return ((const operator *)op)->bits ? 8 : 7; }
static size_t output_count(const OrtCustomOp *op) {
    (void)op;
    return 1;
}
static int input_type(const OrtCustomOp *op, size_t index) {
    static const int TYPES[8] = {ORT_INT8, ORT_FLOAT, ORT_INT8, ORT_UINT8, ORT_FLOAT, ORT_FLOAT, ORT_INT8, ORT_INT32};
    return TYPES[((const operator *)op)->bits == 0 && index >= 3 ? index + 1 : index];
}
static int output_type(const OrtCustomOp *op, size_t index) {
    (void)op, (void)index;
    return ORT_INT8;
}
static int zero(const OrtCustomOp *op, size_t index) {
    (void)op, (void)index;
    return 0; /* a required tensor, in the provider's own memory */
}
static int one(const OrtCustomOp *op) {
    (void)op;
    return 1;
}

static operator operators[KINDS * WIDTHS];

/* What ONNX Runtime calls when the library is registered with a session. */
MSQ_API OrtStatus *RegisterCustomOps(OrtSessionOptions *options, const OrtApiBase *base) {
    const OrtApi *api = base->GetApi(ORT_VERSION);
    if (api == NULL) return NULL; /* older than 1.17: the model's functions do the work */
    if (msq_tier_name() == NULL) return failed(api, "MSQ_KERNELS_TIER");
    if (atomic_load(&wanted_threads) == 0) msq_use_threads(0);
    OrtCustomOpDomain *domain = NULL;
    TRY(ORT_CreateCustomOpDomain(api)("msq", &domain));
    for (int i = 0; i < KINDS * WIDTHS; i++) {
        operator *made = &operators[i];
        made->kind = i / WIDTHS;
        made->bits = i % WIDTHS;
        snprintf(made->name, sizeof made->name, "Packed%s%d", KIND_NAMES[made->kind], made->bits);
        made->op = (OrtCustomOp){
            .version = ORT_VERSION,
            .GetName = name_of,
            .GetExecutionProviderType = provider_of,
            .GetInputType = input_type,
            .GetInputTypeCount = input_count,
            .GetOutputType = output_type,
            .GetOutputTypeCount = output_count,
            .KernelDestroy = destroy,
            .GetInputCharacteristic = zero,
            .GetOutputCharacteristic = zero,
            .GetInputMemoryType = zero,
            .GetVariadicInputMinArity = one,
            .GetVariadicInputHomogeneity = one,
            .GetVariadicOutputMinArity = one,
            .GetVariadicOutputHomogeneity = one,
            .CreateKernelV2 = create,
            .KernelComputeV2 = compute,
            .GetStartVersion = one,
            .GetEndVersion = one,
        };
        TRY(ORT_CustomOpDomain_Add(api)(domain, &made->op));
    }
    return ORT_AddCustomOpDomain(api)(options, domain);
}
