/* What the files of operations share. */
#ifndef MSQ_OPERATORS_H
#define MSQ_OPERATORS_H

#include "graph.h"

static inline msq_tensor *msq_input_of(const msq_graph *graph, const msq_node *node, int32_t index) {
    return &graph->tensors[node->inputs[index]];
}

static inline msq_tensor *msq_output_of(const msq_graph *graph, const msq_node *node) {
    return &graph->tensors[node->output];
}

/* The tensor that is there once a node has run: its output, or that of the addition it does. */
static inline msq_tensor *msq_made_by(const msq_graph *graph, const msq_node *node) {
    return msq_output_of(graph, node->addition >= 0 ? &graph->nodes[node->addition] : node);
}

/* Whether a tensor is int8 and of this rank; 0: of any. */
static inline bool msq_is_int8(const msq_tensor *tensor, int32_t rank) {
    return tensor->dtype == MSQ_INT8 && (rank == 0 || tensor->rank == rank);
}

/* Say what a kernel said of a node. */
msq_status msq_kernel_failed(const msq_node *node, msq_status status);

msq_status msq_read_conv2d(msq_graph *graph, msq_node *node, int32_t json);
msq_status msq_read_linear(msq_graph *graph, msq_node *node, int32_t json);
void msq_run_layer(const msq_graph *graph, msq_node *node);

/* A layer's workspace, and its addition. */
msq_status msq_layer_needs(const msq_graph *graph, msq_node *node);

#endif
