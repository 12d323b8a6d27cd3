/* The hook into ONNX Runtime: the operators of domain "msq" of the dual model, on the packed kernels.
 *
 * Registered with a session, they take the place of the functions of the same names that the model file defines.
 */
#include <stdio.h>

#include "msq_kernels.h"
#include "ort_operator.h"

OrtStatus *msq_failed(const OrtApi *api, const char *name) {
    char said[320];
    snprintf(said, sizeof said, "%s: packed kernels: %s", name, msq_error());
    return ORT_CreateStatus(api)(ORT_INVALID_ARGUMENT, said);
}

OrtStatus *msq_constant(const OrtApi *api, const OrtKernelInfo *info, size_t index, const char *name, const void **data,
                        size_t *count) {
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

OrtStatus *msq_shape_of(const OrtApi *api, const OrtValue *value, int64_t *sizes, size_t most, size_t *rank) {
    OrtShape *shape = NULL;
    TRY(ORT_GetTensorTypeAndShape(api)(value, &shape));
    OrtStatus *status = ORT_GetDimensionsCount(api)(shape, rank);
    if (status == NULL && *rank > most) status = ORT_CreateStatus(api)(ORT_INVALID_ARGUMENT, "too many dimensions");
    if (status == NULL) status = ORT_GetDimensions(api)(shape, sizes, *rank);
    ORT_ReleaseShape(api)(shape);
    return status;
}

static const char *name_of(const OrtCustomOp *op) { return ((const msq_operator *)op)->name; }
static const char *provider_of(const OrtCustomOp *op) {
    (void)op;
    return NULL; /* the CPU's */
}
static size_t input_count(const OrtCustomOp *op) { return ((const msq_operator *)op)->inputs; }
static size_t output_count(const OrtCustomOp *op) {
    (void)op;
    return 1;
}
static int input_type(const OrtCustomOp *op, size_t index) { return ((const msq_operator *)op)->types[index]; }
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

OrtStatus *msq_add_operator(const OrtApi *api, OrtCustomOpDomain *domain, msq_operator *made, msq_create *create,
                            msq_compute *compute, void (*destroy)(void *kernel)) {
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
    return ORT_CustomOpDomain_Add(api)(domain, &made->op);
}

/* What ONNX Runtime calls when the library is registered with a session. */
MSQ_API OrtStatus *RegisterCustomOps(OrtSessionOptions *options, const OrtApiBase *base) {
    const OrtApi *api = base->GetApi(ORT_VERSION);
    if (api == NULL) return NULL; /* older than 1.17: the model's functions do the work */
    if (msq_tier_name() == NULL) return msq_failed(api, "MSQ_KERNELS_TIER");
    OrtCustomOpDomain *domain = NULL;
    TRY(ORT_CreateCustomOpDomain(api)("msq", &domain));
    TRY(msq_add_layers(api, domain));
    TRY(msq_add_elementwise(api, domain));
    return ORT_AddCustomOpDomain(api)(options, domain);
}
