/* What the operators of the hook share. */
#ifndef MSQ_ORT_OPERATOR_H
#define MSQ_ORT_OPERATOR_H

#include "ort_api.h"

enum { MOST_INPUTS = 8 };

/* An operator of domain "msq". */
typedef struct msq_operator {
    OrtCustomOp op; /* first: callbacks get its address */
    char name[24];
    int kind, bits;
    size_t inputs;
    int types[MOST_INPUTS];
} msq_operator;

/* Call ONNX Runtime, and return its status where it is not well. */
#define TRY(call) \
    do { \
        OrtStatus *status_ = (call); \
        if (status_) return status_; \
    } while (0)

typedef OrtStatus *msq_create(const OrtCustomOp *op, const OrtApi *api, const OrtKernelInfo *info, void **out);
typedef OrtStatus *msq_compute(void *kernel, OrtKernelContext *context);

/* Fill in what ONNX Runtime asks of an operator whose name, inputs and types are set, and add it to a domain. */
OrtStatus *msq_add_operator(const OrtApi *api, OrtCustomOpDomain *domain, msq_operator *made, msq_create *create,
                            msq_compute *compute, void (*destroy)(void *kernel));

/* Add the weighted layers, and the arithmetic without weights. */
OrtStatus *msq_add_layers(const OrtApi *api, OrtCustomOpDomain *domain);
OrtStatus *msq_add_elementwise(const OrtApi *api, OrtCustomOpDomain *domain);

/* A status that says why the last call of a kernel failed. */
OrtStatus *msq_failed(const OrtApi *api, const char *name);

/* Where a constant input lies, and how many elements it has. */
OrtStatus *msq_constant(const OrtApi *api, const OrtKernelInfo *info, size_t index, const char *name, const void **data,
                        size_t *count);

/* Dimensions of a tensor, at most `most`. */
OrtStatus *msq_shape_of(const OrtApi *api, const OrtValue *value, int64_t *sizes, size_t most, size_t *rank);

#endif
