/* The part of TensorFlow Lite's C interface that a delegate needs, declared from its documented binary interface:
 * records whose members keep their places. They follow tflite/core/c/common.h of LiteRT 2, which took them over from
 * TensorFlow Lite 2. Tensors lie in an array: the record of one must be as long as there. */
#ifndef MSQ_TFLITE_API_H
#define MSQ_TFLITE_API_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { LITE_OK = 0, LITE_ERROR = 1 };                                  /* TfLiteStatus */
enum { LITE_FLOAT32 = 1, LITE_INT32 = 2, LITE_UINT8 = 3, LITE_INT8 = 9 }; /* TfLiteType */
enum { LITE_READ_ONLY = 1 };                                           /* kTfLiteMmapRo, of TfLiteAllocationType */
enum { LITE_ALLOWS_DYNAMIC_TENSORS = 1 };                              /* of TfLiteDelegateFlags */
enum { LITE_DEQUANTIZE = 6, LITE_RESHAPE = 22 };                       /* of TfLiteBuiltinOperator */

typedef struct {
    int size;
    int data[];
} lite_ints;

typedef struct lite_delegate lite_delegate;
typedef struct lite_context lite_context;

typedef struct {
    int type;
    void *data;
    lite_ints *dims;
    struct {
        float scale;
        int32_t zero_point;
    } params;
    int allocation_type;
    size_t bytes;
    const void *allocation;
    const char *name;
    lite_delegate *delegate;
    int buffer_handle;
    bool data_is_stale, is_variable;
    struct {
        int type;
        void *params;
    } quantization;
    void *sparsity;
    const lite_ints *dims_signature;
} lite_tensor;

typedef struct {
    lite_ints *inputs, *outputs, *intermediates, *temporaries;
    void *user_data, *builtin_data;
    const void *custom_initial_data;
    int custom_initial_data_size;
    lite_delegate *delegate;
    bool might_have_side_effect;
} lite_node;

/* TfLiteRegistration, which is handed over by value; a longer one of a later release finds zeros at its end. */
typedef struct {
    void *(*init)(lite_context *context, const char *buffer, size_t length);
    void (*free)(lite_context *context, void *made);
    int (*prepare)(lite_context *context, lite_node *node);
    int (*invoke)(lite_context *context, lite_node *node);
    const char *(*profiling_string)(const lite_context *context, const lite_node *node);
    int32_t builtin_code;
    const char *custom_name;
    int version;
    void *registration_external;
    void *async_kernel;
    uint64_t inplace_operator;
    void *later[4];
} lite_registration;

struct lite_delegate {
    void *data;
    int (*prepare)(lite_context *context, lite_delegate *delegate);
    void *copy_from_buffer_handle, *copy_to_buffer_handle, *free_buffer_handle;
    int64_t flags;
    void *opaque_delegate_builder;
};

/* What `init` of a delegate's kernel gets: TfLiteDelegateParams. */
typedef struct {
    lite_delegate *delegate;
    lite_ints *nodes_to_replace, *input_tensors, *output_tensors;
} lite_part;

struct lite_context {
    size_t tensors_size;
    int (*GetExecutionPlan)(lite_context *context, lite_ints **plan);
    lite_tensor *tensors;
    void *impl;
    int (*ResizeTensor)(lite_context *context, lite_tensor *tensor, lite_ints *size);
    void (*ReportError)(lite_context *context, const char *format, ...);
    int (*AddTensors)(lite_context *context, int count, int *first);
    int (*GetNodeAndRegistration)(lite_context *context, int index, lite_node **node, lite_registration **registration);
    int (*ReplaceNodeSubsetsWithDelegateKernels)(lite_context *context, lite_registration registration,
                                                 const lite_ints *nodes, lite_delegate *delegate);
};

#endif
