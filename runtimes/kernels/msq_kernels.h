/* Layers of bit-packed weights (0..8 bits) on int8 activations, with exactly the arithmetic of the integer model.
 *
 *     sums[n] = Σ_k (x[k] − input_zero) · w[n][k] + bias[n]          int32, w = a · code − z
 *     y[n]    = clamp(rint(float(sums[n]) · m[n]) + output_zero)     m = (input_scale · weight_scale[n]) / output_scale
 *
 * Activations are NHWC. Weights lie as msq/packing.py says, and are read where they lie: nothing is copied, so a mapped
 * file stays a mapped file. All functions may be called from any thread; one layer runs in one thread at a time only as
 * far as its workspace is shared. Functions that return an msq_status leave the reason in msq_error() otherwise.
 */
#ifndef MSQ_KERNELS_H
#define MSQ_KERNELS_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define MSQ_KERNELS_ABI 3

#if defined(_WIN32)
#define MSQ_API __declspec(dllexport)
#else
#define MSQ_API __attribute__((visibility("default")))
#endif

typedef enum {
    MSQ_OK = 0,
    MSQ_INVALID = 1,     /* a width, a shape or a size that lies */
    MSQ_ALIGNMENT = 2,   /* packed weights or a workspace not at a multiple of 64 bytes */
    MSQ_UNSUPPORTED = 3, /* a tier that this processor cannot run */
    MSQ_MEMORY = 4,
    MSQ_ABI = 5,         /* a caller built for another version */
    /* Of the native runtime alone: */
    MSQ_FILE = 6,   /* a file that is missing, cut or not what it should be */
    MSQ_SCHEMA = 7, /* a bundle of a newer version, or with an operation that is not known */
    MSQ_INPUT = 8   /* an input of another size, or not a number */
} msq_status;

/* What a layer is. A linear layer is a 1 × 1 convolution. */
typedef struct {
    uint32_t abi;         /* MSQ_KERNELS_ABI */
    int32_t bits;         /* stored width, 0..8; at 0 all weights are 0 and packed is not read */
    int32_t a, z;         /* w = a · code − z, within [−128, 127] for every code */
    int32_t outputs;      /* N, output channels */
    int32_t inputs;       /* input channels of a group */
    int32_t groups;       /* divides N */
    int32_t depthwise;    /* packed in the layout of depthwise layers: inputs == 1 and groups == N */
    int32_t kernel[2];    /* height, width */
    int32_t stride[2];    /* ≥ 1 */
    int32_t dilation[2];  /* ≥ 1 */
    int32_t padding[4];   /* top, left, bottom, right; padded with input_zero */
    const uint8_t *packed;     /* 64-byte aligned; lives as long as the layer */
    size_t packed_bytes;       /* exactly msq_packed_bytes of the shape */
    const float *weight_scale; /* (N); copied */
    const int32_t *bias;       /* (N); copied */
    float input_scale, output_scale;
    int32_t input_zero, output_zero; /* −128..127 */
    int32_t low, high;               /* clamp of y, codes */
} msq_layer_spec;

/* A residual addition on the layer's result: clamp(rint(float(y − output_zero) · ratio) + rint(float(r − zero) ·
 * residual_ratio) + sum_zero), both rounded to the sum's grid as the integer model's add. The ratios are at most
 * MSQ_MOST_RATIO, so that int32 holds both. */
#define MSQ_MOST_RATIO 0x1p22f
typedef struct {
    const int8_t *values; /* r, the shape of y */
    float ratio, residual_ratio;
    int32_t zero, sum_zero, low, high;
} msq_residual;

/* One call of a layer. */
typedef struct {
    const int8_t *x; /* (batch, height, width, inputs · groups) */
    int32_t batch, height, width;
    int8_t *y;                    /* (batch, output height, output width, N), or NULL where sums are wanted */
    int32_t *sums;                /* same shape, or NULL: the sums before requantization */
    const msq_residual *residual; /* or NULL */
    void *workspace;              /* 64-byte aligned, msq_layer_workspace bytes, used by this call alone */
    size_t workspace_bytes;
} msq_call;

typedef struct msq_layer msq_layer;
typedef struct msq_threads msq_threads;

/* Version of this interface that the library was built with. */
MSQ_API uint32_t msq_kernels_abi(void);

/* Why the last call of this thread failed; never NULL, valid until its next call. */
MSQ_API const char *msq_error(void);

/* The tier that new layers use: the best of this processor, or what MSQ_KERNELS_TIER or msq_use_tier says.
 * NULL, with msq_error(), where MSQ_KERNELS_TIER names one that cannot be had. */
MSQ_API const char *msq_tier_name(void);

/* Make new layers use a tier by name; NULL: the best again. MSQ_UNSUPPORTED says which instruction is missing. */
MSQ_API msq_status msq_use_tier(const char *name);

/* Name of the index-th tier built into this library, best first; NULL behind the last. */
MSQ_API const char *msq_built_tier(int32_t index);

/* Bytes of the packed weights of a layer, filling included; 0 at 0 bits. As a matrix they are (N, taps · inputs). */
MSQ_API size_t msq_packed_bytes(int32_t outputs, int32_t inputs, int32_t taps, int32_t bits, int32_t depthwise);

/* Prepare a layer. Bytes held beside the packed weights: 8 a channel, rounded up to 16 channels and 64 more. */
MSQ_API msq_status msq_layer_create(const msq_layer_spec *spec, msq_layer **layer);
MSQ_API void msq_layer_destroy(msq_layer *layer);

/* Output height and width for an input of height × width. MSQ_INVALID: the kernel does not fit into it. */
MSQ_API msq_status msq_layer_output(const msq_layer *layer, int32_t height, int32_t width, int32_t output[2]);

/* Bytes of workspace that a call of this shape needs, with so many threads. */
MSQ_API msq_status msq_layer_workspace(const msq_layer *layer, int32_t batch, int32_t height, int32_t width,
                                       const msq_threads *threads, size_t *bytes);

/* Run a layer. threads: a pool, or NULL for the calling thread alone; a pool is used by one call at a time. */
MSQ_API msq_status msq_layer_run(const msq_layer *layer, const msq_call *call, msq_threads *threads);

/* Arithmetic of two tensors, element by element. p and q are `count` codes each that lie `p_step` and `q_step` apart,
 * which are 0 (one code for all) or 1. ratios: of the operand's scale and the result's; multiplier: p's scale · q's / the
 * result's; all in 0..2^100.
 *
 *     msq_add        y = clamp(rint(float(p − p_zero) · p_ratio) + rint(float(q − q_zero) · q_ratio) + zero)
 *     msq_multiply   y = clamp(rint(float((p − p_zero) · (q − q_zero)) · multiplier) + zero) */
typedef struct {
    int32_t p_zero, q_zero, zero, low, high;
    float p_ratio, q_ratio, multiplier;
} msq_arithmetic;

MSQ_API msq_status msq_add(const msq_arithmetic *a, size_t count, const int8_t *p, int32_t p_step, const int8_t *q,
                           int32_t q_step, int8_t *y);
MSQ_API msq_status msq_multiply(const msq_arithmetic *a, size_t count, const int8_t *p, int32_t p_step, const int8_t *q,
                                int32_t q_step, int8_t *y);

/* Product of two tensors of codes, (batch, m, k) · (batch, k, n) → (batch, m, n):
 *
 *     y = clamp(rint(float(Σ (p − p_zero) · (q − q_zero)) · multiplier) + zero) */
typedef struct {
    int32_t batch, m, k, n; /* from 1 to 2^24; k to 33025, which int32 can sum */
    int32_t p_zero, q_zero, zero, low, high;
    float multiplier;
} msq_product;

/* Bytes of workspace that a product needs, with so many threads, on the tier in use. */
MSQ_API msq_status msq_matmul_workspace(const msq_product *spec, const msq_threads *threads, size_t *bytes);

/* workspace: 64-byte aligned, used by this call alone. threads: a pool, or NULL for the calling thread alone. */
MSQ_API msq_status msq_matmul(const msq_product *spec, const int8_t *p, const int8_t *q, int8_t *y, void *workspace,
                              size_t workspace_bytes, msq_threads *threads);

/* y[i] = table[x[i] + 128] */
MSQ_API void msq_lookup(const int8_t table[256], size_t count, const int8_t *x, int8_t *y);

/* y[c] = clamp(rint(float(Σ (x[pixel][c] − zero)) · multiplier) + output_zero): the mean over `pixels` of one image's
 * channels. MSQ_INVALID: more pixels than int32 can sum. */
MSQ_API msq_status msq_average_pool(int32_t pixels, int32_t channels, const int8_t *x, int32_t zero, float multiplier,
                                    int32_t output_zero, int32_t low, int32_t high, int8_t *y);

/* How many of a runtime's threads its hook may use at once, for calls to come; 0: as many as there are processors. */
MSQ_API void msq_use_threads(int32_t count);

/* A pool of count threads, the calling one included. */
MSQ_API msq_status msq_threads_create(int32_t count, msq_threads **threads);
MSQ_API void msq_threads_destroy(msq_threads *threads);

#ifdef __cplusplus
}
#endif
#endif
