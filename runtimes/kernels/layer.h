/* A prepared layer, and one call of it: how it is cut into parts, and where everything of it lies. */
#ifndef MSQ_LAYER_H
#define MSQ_LAYER_H

#include "msq_kernels.h"
#include "threads.h"
#include "tier.h"

struct msq_layer {
    msq_layer_spec spec;
    const msq_tier *tier;
    msq_grid grid;
    int32_t taps;       /* kernel height · width */
    int32_t row_groups; /* groups of four inputs of one output */
    int32_t *bias;      /* by output, padded to whole panels */
    float *multiplier;
};

enum {
    TILE_OUTPUTS = MAX_PANELS * PANEL,
    MOST_RUNS = 64,
    MOST_ROWS = 32,      /* of any tier's tile */
    PART_BYTES = 24576, /* of unpacked weights: they stay in the first cache while all rows pass */
};

/* One call. A row is a pixel of y. */
typedef struct {
    const msq_layer *layer;
    const msq_call *call;
    int32_t height, width; /* of y */
    int32_t images, image; /* staged at once, and the first of them */
    int64_t rows;          /* of the staged images */
    bool fused, gathered, staged;
    bool whole;   /* all of a panel set's weights are unpacked at once: its sums are complete tile by tile */
    bool slid;    /* the tier slides over lines of y; pixels are staged as whole groups, and weights realigned so */
    bool copied;    /* a chunk's rows are, flipped: single pixels */
    bool realigned; /* weights are: every line of taps begins a group, as it can be read from the map */
    int32_t padded_height, padded_width, padded_channels;
    const uint8_t *source; /* staged images, or x */
    uint8_t *stage, *scratch;
    size_t thread_bytes; /* of scratch, for every thread */
    /* Parts: sets of panels of each chunk of rows of each group of channels, or lines of a layer that is slid over. */
    int32_t chunk_rows, chunks, panel_sets, set_panels, line_parts;
    int32_t staged_lines; /* of a part */
    int32_t slice; /* lines of y of such a layer whose input is staged at once */
    int32_t run_count;
    msq_run runs[MOST_RUNS]; /* of a row */
} msq_work;

static inline size_t msq_rounded(size_t size, size_t to) { return (size + to - 1) / to * to; }

static inline int32_t msq_ceil(int64_t size, int32_t by) { return (int32_t)((size + by - 1) / by); }

/* Whether rows are pixels of x as they lie. */
bool msq_is_pointwise(const msq_layer_spec *spec);

/* Whether they follow one another. */
static inline bool msq_is_one_piece(const msq_layer_spec *s) { return msq_is_pointwise(s) && s->groups == 1; }

/* Whether the pixels of a line of taps follow one another. */
static inline bool msq_is_joined(const msq_layer_spec *s) { return s->dilation[1] == 1 && s->groups == 1; }

/* Copy lines of a padded image: flipped, with their padding. */
void msq_stage_lines(const msq_work *w, int32_t image, int32_t first, int32_t count, uint8_t *to);

/* Where the receptive field of a pixel of y begins in the source. */
const uint8_t *msq_field(const msq_work *w, int64_t image, int64_t y, int64_t x);

/* What outputs from `output` on are made of their sums by. */
msq_epilogue msq_epilogue_of(const msq_work *w, int32_t output);

/* Write `count` outputs of rows from their sums, of which each row has `step`. */
void msq_finish(const msq_work *w, msq_epilogue *e, const int32_t *sums, int32_t step, int64_t row, int32_t rows,
                int32_t output, int32_t count);

/* Products of rows and panels: how they are cut, with the bytes of scratch that a thread needs, and the work.
 * MSQ_INVALID: more parts than can be counted. can_realign: whether a row's weights can lie line by line. */
bool msq_can_realign(const msq_layer *layer);
msq_status msq_plan_product(msq_work *w, int32_t threads);
void msq_run_product(msq_work *w, msq_threads *threads);

/* Unpack a panel so that every line of taps, or where it is slid over every tap, begins a group. Where it ends within
 * one, weights are 0. flat: room for its groups, and one more. */
void msq_realign(const msq_work *w, size_t first, int8_t *flat, int8_t *weights, size_t stride);

/* Lines of the padded map that so many of y read. */
static inline int32_t msq_lines_of(const msq_work *w, int32_t lines) {
    const msq_layer_spec *s = &w->layer->spec;
    return (lines - 1) * s->stride[0] + (s->kernel[0] - 1) * s->dilation[0] + 1;
}

/* The same of layers of one panel that the tier slides over. can_slide: whether a layer is one. */
bool msq_can_slide(const msq_layer *layer, int32_t width);
void msq_plan_slide(msq_work *w, int32_t threads);
void msq_run_slide(msq_work *w, msq_threads *threads);

/* The same of depthwise layers. */
void msq_plan_depthwise(msq_work *w, int32_t threads);
void msq_run_depthwise(msq_work *w, msq_threads *threads);

#endif
