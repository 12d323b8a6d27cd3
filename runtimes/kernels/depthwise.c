/* Depthwise layers: a window slides along the lines of y. */
#include "layer.h"

static msq_window window_of(const msq_work *w) {
    const msq_layer_spec *s = &w->layer->spec;
    return (msq_window){
        .height = s->kernel[0],
        .width = s->kernel[1],
        .stride = s->stride[1],
        .dilation = s->dilation[1],
        .down = (ptrdiff_t)s->dilation[0] * w->padded_width * w->padded_channels,
        .channels = w->padded_channels,
    };
}

void msq_plan_depthwise(msq_work *w, int32_t threads) {
    const msq_layer *layer = w->layer;
    const msq_window window = window_of(w);
    const size_t wide = (size_t)w->padded_channels;
    /* The weights as they are unpacked, with what is read beyond their end, and the sums share their room. */
    const size_t flat = msq_rounded((size_t)layer->taps * (size_t)layer->spec.outputs, ATOM) + ATOM;
    const size_t sums = COLUMNS * wide * sizeof(int32_t);
    w->thread_bytes = msq_rounded(msq_window_weights(&window), ATOM) + msq_rounded(flat > sums ? flat : sums, ATOM);
    w->line_parts = threads;
}

/* Part: a share of the rows of y of a depthwise layer, over all staged images. */
static void slide_part(void *context, int32_t part, int32_t thread) {
    msq_work *w = context;
    const msq_layer *layer = w->layer;
    const msq_layer_spec *s = &layer->spec;
    const msq_window window = window_of(w);
    const size_t channels = (size_t)w->padded_channels;
    uint8_t *own = w->scratch + (size_t)thread * w->thread_bytes;
    int8_t *weights = (int8_t *)own;
    own += msq_rounded(msq_window_weights(&window), ATOM);
    int8_t *flat = (int8_t *)own;
    int32_t *sums = (int32_t *)own; /* once the weights are arranged */

    layer->tier->unpack(&layer->grid, s->packed, 0, msq_ceil((int64_t)layer->taps * s->outputs, ATOM), flat, ATOM);
    layer->tier->arrange(&window, (uint8_t *)flat, (size_t)s->outputs, weights);

    const int32_t lines = w->height * w->images, per_part = msq_ceil(lines, w->line_parts);
    const int32_t end = (part + 1) * per_part < lines ? (part + 1) * per_part : lines;
    msq_epilogue e = msq_epilogue_of(w, 0);
    for (int32_t line = part * per_part; line < end; line++) {
        for (int32_t column = 0, columns; column < w->width; column += columns) {
            columns = w->width - column < COLUMNS ? w->width - column : COLUMNS;
            const uint8_t *from = msq_field(w, line / w->height, line % w->height, column);
            layer->tier->depthwise(&layer->grid, &window, columns, from, weights, sums);
            msq_finish(w, &e, sums, (int32_t)channels, (int64_t)line * w->width + column, columns, 0, s->outputs);
        }
    }
}

void msq_run_depthwise(msq_work *w, msq_threads *threads) { msq_share(threads, w->line_parts, slide_part, w); }
