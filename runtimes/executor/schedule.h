/* The decisions that a graph is run by. */
#ifndef MSQ_SCHEDULE_H
#define MSQ_SCHEDULE_H

#include "graph.h"

/* Fuse where asked to, give every tensor and workspace a buffer, and plan the arena. */
msq_status msq_schedule(msq_graph *graph, bool is_fused);

/* Point tensors and workspaces into the arena, which lies at a multiple of 64. */
void msq_settle(msq_graph *graph, uint8_t *arena);

#endif
