/* The part of ONNX Runtime's C interface that a custom operator needs, declared from its documented binary interface:
 * a table of functions that only grows, and a record of callbacks. Version 17 of it came with release 1.17. */
#ifndef MSQ_ORT_API_H
#define MSQ_ORT_API_H

#include <stddef.h>
#include <stdint.h>

enum { ORT_VERSION = 17 };

typedef struct OrtStatus OrtStatus; /* NULL says that all is well */
typedef struct OrtSessionOptions OrtSessionOptions;
typedef struct OrtCustomOpDomain OrtCustomOpDomain;
typedef struct OrtKernelInfo OrtKernelInfo;
typedef struct OrtKernelContext OrtKernelContext;
typedef struct OrtValue OrtValue;
typedef struct OrtShape OrtShape; /* OrtTensorTypeAndShapeInfo */

enum { ORT_FLOAT = 1, ORT_UINT8 = 2, ORT_INT8 = 3, ORT_INT32 = 6 };   /* ONNXTensorElementDataType */
enum { ORT_FAIL = 1, ORT_INVALID_ARGUMENT = 2 }; /* OrtErrorCode */

typedef struct {
    void *functions[280];
} OrtApi;

typedef struct {
    const OrtApi *(*GetApi)(uint32_t version);
    const char *(*GetVersionString)(void);
} OrtApiBase;

/* Positions in the table, and what lies there. */
#define ORT_CreateStatus(api) ((OrtStatus * (*)(int, const char *))(api)->functions[0])
#define ORT_CreateCustomOpDomain(api) ((OrtStatus * (*)(const char *, OrtCustomOpDomain **))(api)->functions[26])
#define ORT_CustomOpDomain_Add(api) \
    ((OrtStatus * (*)(OrtCustomOpDomain *, const struct OrtCustomOp *))(api)->functions[27])
#define ORT_AddCustomOpDomain(api) ((OrtStatus * (*)(OrtSessionOptions *, OrtCustomOpDomain *))(api)->functions[28])
#define ORT_GetTensorMutableData(api) ((OrtStatus * (*)(const OrtValue *, void **))(api)->functions[51])
#define ORT_GetDimensionsCount(api) ((OrtStatus * (*)(const OrtShape *, size_t *))(api)->functions[61])
#define ORT_GetDimensions(api) ((OrtStatus * (*)(const OrtShape *, int64_t *, size_t))(api)->functions[62])
#define ORT_GetTensorShapeElementCount(api) ((OrtStatus * (*)(const OrtShape *, size_t *))(api)->functions[64])
#define ORT_GetTensorTypeAndShape(api) ((OrtStatus * (*)(const OrtValue *, OrtShape **))(api)->functions[65])
#define ORT_KernelInfoGetAttribute_int64(api) \
    ((OrtStatus * (*)(const OrtKernelInfo *, const char *, int64_t *))(api)->functions[86])
#define ORT_KernelContext_GetInput(api) \
    ((OrtStatus * (*)(const OrtKernelContext *, size_t, const OrtValue **))(api)->functions[90])
#define ORT_KernelContext_GetOutput(api) \
    ((OrtStatus * (*)(OrtKernelContext *, size_t, const int64_t *, size_t, OrtValue **))(api)->functions[91])
#define ORT_ReleaseStatus(api) ((void (*)(OrtStatus *))(api)->functions[93])
#define ORT_ReleaseShape(api) ((void (*)(OrtShape *))(api)->functions[99])
#define ORT_KernelInfoGetAttributeArray_int64(api) \
    ((OrtStatus * (*)(const OrtKernelInfo *, const char *, int64_t *, size_t *))(api)->functions[163])
#define ORT_KernelInfoGetConstantInput_tensor(api) \
    ((OrtStatus * (*)(const OrtKernelInfo *, size_t, int *, const OrtValue **))(api)->functions[249])
#define ORT_KernelContext_ParallelFor(api) \
    ((OrtStatus * (*)(const OrtKernelContext *, void (*)(void *, size_t), size_t, size_t, void *))(api)->functions[274])

/* What an operator tells of itself. Callbacks get the record they are in. */
typedef struct OrtCustomOp {
    uint32_t version;
    void *(*CreateKernel)(const struct OrtCustomOp *, const OrtApi *, const OrtKernelInfo *);
    const char *(*GetName)(const struct OrtCustomOp *);
    const char *(*GetExecutionProviderType)(const struct OrtCustomOp *);
    int (*GetInputType)(const struct OrtCustomOp *, size_t);
    size_t (*GetInputTypeCount)(const struct OrtCustomOp *);
    int (*GetOutputType)(const struct OrtCustomOp *, size_t);
    size_t (*GetOutputTypeCount)(const struct OrtCustomOp *);
    void (*KernelCompute)(void *, OrtKernelContext *);
    void (*KernelDestroy)(void *);
    int (*GetInputCharacteristic)(const struct OrtCustomOp *, size_t);
    int (*GetOutputCharacteristic)(const struct OrtCustomOp *, size_t);
    int (*GetInputMemoryType)(const struct OrtCustomOp *, size_t);
    int (*GetVariadicInputMinArity)(const struct OrtCustomOp *);
    int (*GetVariadicInputHomogeneity)(const struct OrtCustomOp *);
    int (*GetVariadicOutputMinArity)(const struct OrtCustomOp *);
    int (*GetVariadicOutputHomogeneity)(const struct OrtCustomOp *);
    OrtStatus *(*CreateKernelV2)(const struct OrtCustomOp *, const OrtApi *, const OrtKernelInfo *, void **);
    OrtStatus *(*KernelComputeV2)(void *, OrtKernelContext *);
    OrtStatus *(*InferOutputShapeFn)(const struct OrtCustomOp *, void *);
    int (*GetStartVersion)(const struct OrtCustomOp *);
    int (*GetEndVersion)(const struct OrtCustomOp *);
    void *later[4]; /* read by newer versions only */
} OrtCustomOp;

#endif
