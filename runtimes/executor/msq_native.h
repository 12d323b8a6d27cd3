/* The native runtime: runs the integer model of a bundle (model.json and weights.bin) on the packed kernels.
 *
 * Weights stay where they are in the mapped file. All that a model needs is allocated while it is loaded: activations lie
 * in one arena that is planned then, and running allocates nothing. Results are the oracle's, bit for bit, on every
 * tier. A model is used by one thread at a time; different models may run at once. Functions that return an msq_status
 * leave one line that says what is wrong and where in msq_error() otherwise. A bundle is not trusted: every number of it
 * is checked before it is used.
 */
#ifndef MSQ_NATIVE_H
#define MSQ_NATIVE_H

#include "msq_kernels.h"

#ifdef __cplusplus
extern "C" {
#endif

#define MSQ_NATIVE_ABI 1

enum { MSQ_MOST_RANK = 6 };

typedef enum { MSQ_FLOAT32 = 0, MSQ_INT8 = 1 } msq_dtype;

typedef struct msq_model msq_model;

/* How a model is loaded. Start from (msq_options){MSQ_NATIVE_ABI, 1, 1}. */
typedef struct {
    uint32_t abi;    /* MSQ_NATIVE_ABI */
    int32_t threads; /* ≥ 1, the calling one included */
    int32_t fuse;    /* 1: additions are done by the layer before them; 0: every tensor of the model is made */
} msq_options;

/* A tensor, one image of it. name lives as long as the model. */
typedef struct {
    const char *name;
    msq_dtype dtype;
    int32_t rank;
    int32_t shape[MSQ_MOST_RANK]; /* height, width, channels; features; … */
    size_t count;                 /* elements */
    float scale;                  /* of int8: scale · (code − zero_point) */
    int32_t zero_point;
} msq_tensor_info;

/* A node as it runs. Strings live as long as the model. */
typedef struct {
    const char *name, *kind, *output;
    int32_t is_fused;      /* done by another node, which makes its output */
    uint64_t runs;         /* since the profile was switched on */
    uint64_t nanoseconds;  /* of all of them */
    size_t arena_bytes;    /* in use while it runs, its workspace included */
} msq_node_info;

/* What a loaded model holds, in bytes. */
typedef struct {
    size_t arena;       /* activations and the kernels' workspace */
    size_t arena_bound; /* the largest sum of what must be kept at once: no plan is smaller */
    size_t weights;     /* of weights.bin, where it lies */
} msq_memory_info;

/* Version of this interface that the library was built with. */
MSQ_API uint32_t msq_native_abi(void);

/* Release of the toolchain that the library is of: "1.2.3". */
MSQ_API const char *msq_native_version(void);

/* Load the model of a bundle's folder.
 * MSQ_FILE: a file is missing, cut, or not what it should be. MSQ_SCHEMA: of a newer version, or of an operation unknown
 * here. MSQ_INVALID: it describes what cannot be. MSQ_MEMORY, MSQ_UNSUPPORTED, MSQ_ABI as the kernels. */
MSQ_API msq_status msq_model_load(const char *folder, const msq_options *options, msq_model **model);

/* Load a model that lies in memory: model.json, which is not needed afterwards, and weights.bin at a multiple of 64 bytes,
 * which lives as long as the model. Fails as msq_model_load does, and with MSQ_ALIGNMENT. */
MSQ_API msq_status msq_model_load_memory(const void *json, size_t json_bytes, const void *weights, size_t weight_bytes,
                                         const msq_options *options, msq_model **model);
MSQ_API void msq_model_free(msq_model *model);

MSQ_API void msq_model_input(const msq_model *model, msq_tensor_info *info);
MSQ_API void msq_model_output(const msq_model *model, msq_tensor_info *info);
MSQ_API void msq_model_memory(const msq_model *model, msq_memory_info *info);

/* Run `images` images, one after another. input: images · input.count float32, and input_bytes of them; output likewise.
 * MSQ_INPUT: sizes that do not fit, or a value that is not a number; the message names image and element. */
MSQ_API msq_status msq_model_run(msq_model *model, int32_t images, const float *input, size_t input_bytes, float *output,
                                 size_t output_bytes);

/* Have every tensor shown as soon as it is made: data is valid during the call. NULL: no more. */
typedef void (*msq_watcher)(void *context, int32_t image, const msq_tensor_info *tensor, const void *data);
MSQ_API void msq_model_watch(msq_model *model, msq_watcher watcher, void *context);

/* Begin (1) or end (0) to take the time of every node. */
MSQ_API void msq_model_profile(msq_model *model, int32_t on);

MSQ_API int32_t msq_model_nodes(const msq_model *model);
MSQ_API void msq_model_node(const msq_model *model, int32_t index, msq_node_info *info);

#ifdef __cplusplus
}
#endif
#endif
