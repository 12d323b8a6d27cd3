/* What a tier is: the few loops that differ from one instruction set to another. layer.c does the rest, once. */
#ifndef MSQ_TIER_H
#define MSQ_TIER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "msq_kernels.h"

enum { PANEL = 16, BLOCK = 32, ATOM = 64, GROUP = 4, GROUPS = 8 };

enum { MAX_ROWS = 16, MAX_PANELS = 4 };

/* Consecutive groups of four inputs that lie together, `offset` bytes behind a row's pointer. */
typedef struct {
    ptrdiff_t offset;
    int32_t groups;
} msq_run;

/* How codes of a layer become weights, w = a · code − z, with what a tier makes of it once. */
typedef struct {
    _Alignas(64) uint8_t made[256];
    int32_t bits, a, z;
} msq_grid;

/* Whether |w| may exceed 64, so that two products of a byte can overflow 16 bits. */
static inline bool msq_is_wide(const msq_grid *grid) { return grid->bits + (grid->a == 2) > 7; }

/* The planes of a code of `bits`, from its lowest bits: their widths, 0 where there are no more. */
typedef struct {
    int first, second, third;
} msq_planes;

static inline __attribute__((always_inline)) msq_planes msq_planes_of(const int bits) {
    const int first = bits == 8 ? 8 : bits & 4 ? 4 : bits & 2 ? 2 : 1, rest = bits - first;
    const int second = rest & 2 ? 2 : rest & 1;
    return (msq_planes){first, second, rest - second};
}

/* The window of a depthwise layer on its padded map, over some channels. */
typedef struct {
    int32_t height, width;   /* taps */
    int32_t stride, dilation; /* along a line, in pixels */
    ptrdiff_t down;          /* bytes from a line of taps to the next */
    ptrdiff_t pixel;         /* bytes from pixel to pixel */
    int32_t channels;        /* of them, a multiple of 16 */
} msq_window;

/* Bytes that weights take as a tier arranges them: lines by fours. */
static inline size_t msq_window_weights(const msq_window *w) {
    return (size_t)w->width * (size_t)((w->height + 3) / 4 * 4) * (size_t)w->channels;
}

/* Rows each of which begins a pixel behind the last: lines of three taps of whole groups, `down` bytes apart. */
typedef struct {
    int32_t lines, groups; /* of a tap */
    ptrdiff_t down, pixel;
} msq_slide;

/* Constants of the outputs of one panel set, padded to whole panels. */
typedef struct {
    const int32_t *bias; /* what the sums lack: bias − Σw · (input_zero + flip) */
    const float *multiplier;
    float low, high; /* of y − output_zero */
    int32_t zero;
    /* The residual addition, or values == NULL. */
    const int8_t *values;
    float ratio, residual_ratio;
    int32_t residual_zero, sum_zero, sum_low, sum_high;
} msq_epilogue;

/* Sums of an earlier tile that are to become as many codes, one behind the other: `count` times 64 of them, or none. */
typedef struct {
    int32_t count;
    const int32_t *sums;
    const int8_t *values; /* of the residual addition, or NULL */
    int8_t *y;
} msq_unfinished;

typedef struct msq_tier {
    const char *name;
    const char *needs; /* instructions, in words */
    bool (*supported)(void);

    /* XORed into activations before they are multiplied: 0x80 where the instruction wants them unsigned. */
    uint8_t flip;
    /* Size of the largest tile: rows for 1..panels panels of 16 outputs side by side. */
    int32_t panels;
    int32_t rows[MAX_PANELS];

    /* Copy inputs, flipped. */
    void (*copy)(const uint8_t *x, size_t count, uint8_t *to);

    /* Fill in grid->made. */
    void (*prepare)(msq_grid *grid);

    /* Unpack groups first … first + groups − 1 of a layer: 64 int8 weights each, `stride` bytes from group to group. */
    void (*unpack)(const msq_grid *grid, const uint8_t *packed, size_t first, int32_t groups, int8_t *weights,
                   size_t stride);

    /* sums[r · panels · 16 + n] = Σ x · w over the runs of every row, or += where there were more. x: flipped; weights:
     * unpacked panels, interleaved group by group. */
    void (*tile)(const msq_grid *grid, int32_t rows, int32_t panels, const uint8_t *const *x, const msq_run *runs,
                 int32_t run_count, const int8_t *weights, bool more, int32_t *sums);

    /* The same of the largest tile of two panels, and meanwhile the requantization of an earlier one. NULL where nothing
     * is gained by that. */
    void (*tile_among)(const uint8_t *const *x, const msq_run *runs, int32_t run_count, const int8_t *weights, bool more,
                       int32_t *sums, const msq_epilogue *epilogue, const msq_unfinished *then);

    /* The same of one panel for 16 or 12 rows that are neighbours. NULL where `tile` is as good. */
    void (*slide)(int32_t rows, const msq_slide *s, const uint8_t *x, const int8_t *weights, int32_t *sums,
                  const msq_epilogue *epilogue, const msq_unfinished *then);

    /* The same for the blocks of one panel as they are packed, and rows of blocks · 32 flipped bytes each, which are 0
     * where a block holds other panels' groups; 1, 2 or 4 rows. */
    void (*fused)(const msq_grid *grid, int32_t rows, const uint8_t *const *x, int32_t blocks, const uint8_t *packed,
                  int32_t *sums);

    /* Bring the weights of a depthwise layer, flat with `step` bytes from tap to tap, into the order of `depthwise`. At
     * most msq_window_weights bytes are written. */
    void (*arrange)(const msq_window *window, const uint8_t *flat, size_t step, int8_t *weights);

    /* Sums of consecutive pixels of y, window->channels each; x: flipped, the first one's window. */
    void (*depthwise)(const msq_grid *grid, const msq_window *window, int32_t columns, const uint8_t *x,
                      const int8_t *weights, int32_t *sums);

    /* y of rows of count sums, which can be read up to a multiple of 16; from row to row it is sums_step sums, and step
     * codes of y and of the epilogue's values. */
    void (*requantize)(const int32_t *sums, size_t sums_step, int32_t rows, int32_t count, const msq_epilogue *epilogue,
                       int8_t *y, size_t step);

    /* msq_add, or of a product msq_multiply. */
    void (*combine)(bool product, const msq_arithmetic *a, size_t count, const int8_t *p, int32_t p_step,
                    const int8_t *q, int32_t q_step, int8_t *y);

    /* y = rint(x / scale) + zero, clamped to low..high. x holds no NaN. */
    void (*quantize)(size_t count, const float *x, float scale, int32_t zero, int32_t low, int32_t high, int8_t *y);

    /* y = the larger one of x and y, in rows of count codes; steps: codes from row to row. */
    void (*maximum)(int32_t rows, size_t count, const int8_t *x, size_t x_step, int8_t *y, size_t y_step);
} msq_tier;

extern const msq_tier msq_scalar;
extern const msq_tier msq_avx2, msq_avxvnni, msq_avx512vnni;
extern const msq_tier msq_neon, msq_dotprod, msq_i8mm;

/* Whether two codes times such ratios of scales have a sum: infinities need not have one. */
static inline bool msq_is_ratio(float ratio) { return ratio >= 0 && ratio <= 0x1p100f; }

static inline bool msq_is_code(int32_t value) { return value >= -128 && value <= 127; }

/* The first element that is not a number, or count. */
size_t msq_first_nan(const float *values, size_t count);

/* The tier in use; NULL, with the reason in msq_error(), where the one asked for cannot be had. */
const msq_tier *msq_current_tier(void);

/* Remember why a call failed, printf-like, and return the status. What is formatted may be msq_error() itself. */
int msq_fail(int status, const char *format, ...) __attribute__((format(printf, 2, 3)));

#endif
