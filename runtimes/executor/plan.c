/* The arena: where buffers lie that are in use at different times, so that all fit in the least memory. */
#include <stdlib.h>
#include <string.h>

#include "graph.h"
#include "tier.h"

static size_t rounded(size_t bytes) { return (bytes + ATOM - 1) / ATOM * ATOM; }

static bool overlap(const msq_buffer *a, const msq_buffer *b) { return a->first <= b->last && b->first <= a->last; }

/* What is placed first: the largest, the longest in use, or the earliest. */
static int by_size(const void *a, const void *b) {
    const msq_buffer *p = *(msq_buffer *const *)a, *q = *(msq_buffer *const *)b;
    if (p->bytes != q->bytes) return p->bytes < q->bytes ? 1 : -1;
    return p->first - q->first;
}

static int by_life(const void *a, const void *b) {
    const msq_buffer *p = *(msq_buffer *const *)a, *q = *(msq_buffer *const *)b;
    const int32_t left = p->last - p->first, right = q->last - q->first;
    return left != right ? right - left : by_size(a, b);
}

static int by_start(const void *a, const void *b) {
    const msq_buffer *p = *(msq_buffer *const *)a, *q = *(msq_buffer *const *)b;
    return p->first != q->first ? p->first - q->first : by_size(a, b);
}

/* Place buffers in this order, each at the lowest offset where it disturbs none that is placed; return the end of all.
 * placed: room for pointers, kept sorted by offset. */
static size_t place(msq_buffer **order, int32_t count, msq_buffer **placed) {
    size_t end = 0;
    for (int32_t i = 0; i < count; i++) {
        msq_buffer *buffer = order[i];
        buffer->offset = 0;
        for (int32_t j = 0; j < i; j++) {
            if (!overlap(buffer, placed[j])) continue;
            if (buffer->offset + buffer->bytes <= placed[j]->offset) break;
            const size_t behind = rounded(placed[j]->offset + placed[j]->bytes);
            if (behind > buffer->offset) buffer->offset = behind;
        }
        int32_t at = i;
        for (; at > 0 && placed[at - 1]->offset > buffer->offset; at--) placed[at] = placed[at - 1];
        placed[at] = buffer;
        if (buffer->offset + buffer->bytes > end) end = buffer->offset + buffer->bytes;
    }
    return end;
}

msq_status msq_plan_arena(msq_graph *graph) {
    static int (*const ORDERS[])(const void *, const void *) = {by_size, by_life, by_start};
    enum { TRIES = sizeof ORDERS / sizeof *ORDERS };
    const int32_t count = graph->buffer_count;
    msq_buffer **order = calloc(2 * (size_t)count + 1, sizeof *order);
    if (order == NULL) return msq_fail(MSQ_MEMORY, "no memory for the plan of the arena");
    for (int32_t i = 0; i < count; i++) order[i] = &graph->buffers[i];
    int32_t best = 0;
    for (int32_t try = 0; try < TRIES; try++) {
        qsort(order, (size_t)count, sizeof *order, ORDERS[try]);
        const size_t end = place(order, count, order + count);
        if (try == 0 || end < graph->arena_bytes) {
            graph->arena_bytes = end;
            best = try;
        }
    }
    qsort(order, (size_t)count, sizeof *order, ORDERS[best]);
    place(order, count, order + count);
    free(order);
    for (int32_t node = 0; node < graph->node_count; node++) {
        size_t live = 0;
        for (int32_t i = 0; i < count; i++)
            if (graph->buffers[i].first <= node && node <= graph->buffers[i].last) live += graph->buffers[i].bytes;
        if (live > graph->arena_bound) graph->arena_bound = live;
    }
    return MSQ_OK;
}
