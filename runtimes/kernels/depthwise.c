/* Depthwise layers: a window slides along the lines of y. */
#include "layer.h"

enum {
    COLUMNS = 16,           /* pixels whose sums are kept before they are requantized together */
    BLOCK_CHANNELS = 256,   /* of them: their sums stay in the first cache */
    STAGED_BYTES = 1 << 18, /* of padded lines: they stay in the second */
};

/* The window over a block's channels. */
static msq_window window_of(const msq_work *w, int32_t channels) {
    const msq_layer_spec *s = &w->layer->spec;
    return (msq_window){
        .height = s->kernel[0],
        .width = s->kernel[1],
        .stride = s->stride[1],
        .dilation = s->dilation[1],
        .down = (ptrdiff_t)s->dilation[0] * w->padded_width * w->padded_channels,
        .pixel = w->padded_channels,
        .channels = channels,
    };
}

/* What a thread has of its own. */
typedef struct {
    int8_t *weights, *flat; /* as they are arranged, and unpacked */
    int32_t *sums;
    uint8_t *lines;
} lane;

/* Lay a thread's things out from `base`, and return the bytes of them. */
static size_t lay_lane(const msq_work *w, uint8_t *base, lane *own) {
    const msq_window all = window_of(w, w->padded_channels);
    /* What is read beyond the weights' end belongs to them. */
    const size_t flat = msq_rounded((size_t)w->layer->taps * (size_t)w->layer->spec.outputs, ATOM) + ATOM;
    const size_t sums = COLUMNS * BLOCK_CHANNELS * sizeof *own->sums;
    const size_t weights = msq_rounded(msq_window_weights(&all), ATOM);
    const size_t lines = (size_t)msq_lines_of(w, w->slice) * (size_t)w->padded_width * (size_t)w->padded_channels;
    if (base)
        *own = (lane){
            .weights = (int8_t *)base,
            .flat = (int8_t *)base + weights,
            .sums = (int32_t *)(base + weights + flat),
            .lines = base + weights + flat + sums,
        };
    return weights + flat + sums + msq_rounded(lines, ATOM);
}

void msq_plan_depthwise(msq_work *w, int32_t threads) {
    const int64_t line = (int64_t)w->padded_width * w->padded_channels;
    w->slice = 1;
    while (w->slice < w->height && msq_lines_of(w, w->slice + 1) * line <= STAGED_BYTES) w->slice++;
    w->thread_bytes = lay_lane(w, NULL, NULL);
    w->line_parts = threads;
}

/* The window over the channels from c on, and how many outputs they are. */
static msq_window block_at(const msq_work *w, int32_t c, int32_t *outputs) {
    const int32_t left = w->layer->spec.outputs - c, channels = w->padded_channels - c;
    *outputs = left < BLOCK_CHANNELS ? left : BLOCK_CHANNELS;
    return window_of(w, channels < BLOCK_CHANNELS ? channels : BLOCK_CHANNELS);
}

/* Pixels of a line of y whose window begins at `x`; `row` is the first one's number among all pixels. */
static void slide(const msq_work *w, const lane *own, const uint8_t *x, int64_t row, int32_t columns) {
    const msq_layer *layer = w->layer;
    const int8_t *weights = own->weights;
    for (int32_t c = 0, outputs; c < layer->spec.outputs; c += BLOCK_CHANNELS) {
        const msq_window window = block_at(w, c, &outputs);
        msq_epilogue e = msq_epilogue_of(w, c);
        layer->tier->depthwise(&layer->grid, &window, columns, x + c, weights, own->sums);
        msq_finish(w, &e, own->sums, window.channels, row, columns, c, outputs);
        weights += msq_window_weights(&window);
    }
}

/* Part: a share of the lines of y, over all images. A slice of them at a time, the lines that it reads are staged. */
static void slide_part(void *context, int32_t part, int32_t thread) {
    msq_work *w = context;
    const msq_layer *layer = w->layer;
    const msq_layer_spec *s = &layer->spec;
    lane own = {0};
    lay_lane(w, w->scratch + (size_t)thread * w->thread_bytes, &own);
    layer->tier->unpack(&layer->grid, s->packed, 0, msq_ceil((int64_t)layer->taps * s->outputs, ATOM), own.flat, ATOM);
    int8_t *weights = own.weights;
    for (int32_t c = 0, outputs; c < s->outputs; c += BLOCK_CHANNELS) {
        const msq_window window = block_at(w, c, &outputs);
        layer->tier->arrange(&window, (uint8_t *)own.flat + c, (size_t)s->outputs, weights);
        weights += msq_window_weights(&window);
    }
    const size_t pixel = (size_t)w->padded_channels, line = (size_t)w->padded_width * pixel;
    const int32_t lines = w->height * w->images, per_part = msq_ceil(lines, w->line_parts);
    const int32_t end = (part + 1) * per_part < lines ? (part + 1) * per_part : lines;
    for (int32_t first = part * per_part, count; first < end; first += count) {
        const int32_t image = first / w->height, y = first % w->height;
        count = end - first < w->slice ? end - first : w->slice;
        if (count > w->height - y) count = w->height - y;
        msq_stage_lines(w, image, y * s->stride[0], msq_lines_of(w, count), own.lines);
        for (int32_t i = 0; i < count; i++) {
            const uint8_t *x = own.lines + (size_t)(i * s->stride[0]) * line;
            const size_t step = (size_t)s->stride[1] * pixel;
            for (int32_t column = 0; column < w->width; column += COLUMNS, x += COLUMNS * step)
                slide(w, &own, x, (int64_t)(first + i) * w->width + column,
                      w->width - column < COLUMNS ? w->width - column : COLUMNS);
        }
    }
}

void msq_run_depthwise(msq_work *w, msq_threads *threads) { msq_share(threads, w->line_parts, slide_part, w); }
