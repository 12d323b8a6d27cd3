/* The integer model in memory: tensors, and nodes in the order in which they run. */
#ifndef MSQ_GRAPH_H
#define MSQ_GRAPH_H

#include "json.h"
#include "msq_native.h"
#include "tier.h"

enum {
    MOST_NODES = 4096,
    MOST_NAME = 256,
    NO_BUFFER = -1,
};

typedef struct {
    char name[MOST_NAME];
    msq_dtype dtype;
    int32_t rank, shape[MSQ_MOST_RANK];
    size_t count;
    float scale;
    int32_t zero;
    bool is_input, is_output; /* of the graph: the caller holds it */
    int32_t producer;         /* node, or −1 of an input */
    int32_t uses, last_use;
    /* Where one image of it lies. */
    int32_t buffer; /* of the arena, or NO_BUFFER: a constant, or what the caller holds */
    uint8_t *data;
} msq_tensor;

typedef struct msq_node msq_node;
typedef struct msq_model_graph msq_graph;

/* What an operation is: one row of the table in operators.c. */
typedef struct {
    const char *kind;
    int32_t inputs; /* −1: any number, from 1 on */
    /* Read what the node says, and check its tensors' shapes. */
    msq_status (*read)(msq_graph *graph, msq_node *node, int32_t json);
    void (*run)(const msq_graph *graph, msq_node *node);
    /* Work out the node's workspace, when all nodes and the threads are known; NULL: it takes none. */
    msq_status (*needs)(const msq_graph *graph, msq_node *node);
    /* The output is the input's bytes. */
    bool is_view;
    /* The output may take an input's place, where that is as large and of no further use. */
    bool is_in_place;
} msq_operation;

struct msq_node {
    char name[MOST_NAME];
    const msq_operation *operation;
    int32_t *inputs, input_count;
    int32_t output;
    int32_t low, high;
    int32_t kernel[2], stride[2], padding[4];
    int32_t axes[MSQ_MOST_RANK], axis, start;
    float factor, epsilon;
    int8_t table[256];
    const int32_t *exponentials;
    const float *gamma, *beta;
    const int8_t *codes;
    /* A layer, the map that it takes its input for, and the addition that is done with it. */
    msq_layer *layer;
    int32_t height, width;
    int32_t addition, residual; /* nodes' and tensors' index, or −1 */
    int32_t done_by;            /* the layer that does this addition, or −1 */
    msq_residual sum;
    int32_t workspace; /* buffer, or NO_BUFFER */
    size_t workspace_bytes;
    uint8_t *scratch;
    uint64_t runs, nanoseconds;
};

/* A buffer of the arena: bytes that are in use from node `first` to node `last`. */
typedef struct {
    size_t bytes, offset;
    int32_t first, last;
} msq_buffer;

/* An array of a node, where its file holds it. */
typedef struct {
    const void *data;
    const char *dtype; /* uint8, int8, int32 or float32 */
    size_t count;
} msq_array;

struct msq_model_graph {
    msq_json json; /* what nodes are read from */
    /* Find a node's array of this name, which lies in `arrays`. */
    msq_status (*find)(const msq_graph *graph, const msq_node *node, const char *name, msq_array *found);
    void *arrays;
    msq_tensor *tensors;
    int32_t tensor_count;
    msq_node *nodes;
    int32_t node_count;
    int32_t *inputs; /* of all nodes */
    int32_t input_count;
    int32_t input, output; /* of a whole model */
    msq_threads *threads;  /* its maker's */
    const msq_tier *tier;
    msq_buffer *buffers;
    int32_t buffer_count;
    size_t arena_bytes, arena_bound;
};

/* Read model.json into an empty graph, which is to be freed whatever is returned. */
msq_status msq_graph_read(msq_graph *graph, const char *text, size_t size);
void msq_graph_free(msq_graph *graph);

/* Make room in an empty graph, for `inputs` inputs of all nodes together. */
msq_status msq_graph_make(msq_graph *graph, int32_t tensors, int32_t nodes, int32_t inputs);

/* Append a tensor. Its name, dtype, rank, shape, scale and zero are given; its index is the count before. */
msq_status msq_graph_add_tensor(msq_graph *graph, const msq_tensor *tensor);

/* Append a node. Its name, operation, output and inputs are given, these in graph->inputs behind those of the nodes
 * before it; what else it says are members of `json`, a value of graph->json. */
msq_status msq_graph_add_node(msq_graph *graph, const msq_node *node, int32_t json);

/* Fail, naming the node before what is wrong with it. */
msq_status msq_node_fail(const msq_node *node, msq_status status, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

/* Members of a node's JSON: `count` whole numbers within low..high, or a float. */
msq_status msq_read_ints(const msq_graph *graph, const msq_node *node, int32_t json, const char *name, int32_t count,
                         int32_t low, int32_t high, int32_t *out);
msq_status msq_read_float(const msq_graph *graph, const msq_node *node, int32_t json, const char *name, float *out);

/* A node's array of this name, dtype, and `count` elements; NULL where those are none. */
msq_status msq_read_array(const msq_graph *graph, const msq_node *node, const char *name, const char *dtype,
                          size_t count, const void **out);

/* The operation of this name; NULL if there is none. */
const msq_operation *msq_operation_named(const char *kind, size_t size);

/* Whether an operation is a sum, which a layer before it can do. */
bool msq_is_addition(const msq_operation *operation);

/* Lay all buffers into one arena; sets their offsets, arena_bytes and arena_bound. */
msq_status msq_plan_arena(msq_graph *graph);

/* Bytes of the buffers that are in use while a node runs. */
size_t msq_live_bytes(const msq_graph *graph, int32_t node);

static inline size_t msq_tensor_bytes(const msq_tensor *tensor) {
    return tensor->count * (tensor->dtype == MSQ_FLOAT32 ? sizeof(float) : 1);
}

#endif
