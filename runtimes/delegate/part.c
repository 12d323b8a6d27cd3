/* A part is put together from the runtime's records, and run. */
#include "part.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "flexbuffer.h"
#include "operators.h"
#include "schedule.h"

static const char PREFIX[] = "msq.";

typedef struct {
    msq_graph graph;
    int *places; /* of the graph's tensors in the runtime's array */
    uint8_t *arena;
    void **copies; /* of packed weights, at most one a node */
    int32_t copy_count;
    char refusal[256]; /* why it cannot run, if it cannot */
} part;

/* Where a node's arrays lie: they are its inputs behind the activations, in the order in which they are read. */
typedef struct {
    const lite_context *context;
    const lite_ints *inputs;
    int next;
    part *copier; /* NULL: nothing is copied */
} arrays;

static const struct {
    int type;
    const char *name;
    size_t bytes;
} DTYPES[] = {{LITE_INT8, "int8", 1}, {LITE_FLOAT32, "float32", 4}, {LITE_UINT8, "uint8", 1}, {LITE_INT32, "int32", 4}};

/* The dtype of a tensor, or −1. Its shape is checked against its bytes: a runtime with other records would not pass. */
static int dtype_of(const lite_tensor *tensor, size_t *count) {
    for (int i = 0; i < (int)(sizeof DTYPES / sizeof *DTYPES); i++) {
        if (tensor->type != DTYPES[i].type || tensor->dims == NULL) continue;
        size_t found = 1;
        for (int k = 0; k < tensor->dims->size && found <= tensor->bytes; k++)
            found *= tensor->dims->data[k] > 0 ? (size_t)tensor->dims->data[k] : 0;
        *count = found;
        return found * DTYPES[i].bytes == tensor->bytes ? i : -1;
    }
    return -1;
}

static msq_status find(const msq_graph *graph, const msq_node *node, const char *name, msq_array *found) {
    arrays *of = graph->arrays;
    if (of->next == of->inputs->size) return msq_node_fail(node, MSQ_FILE, "the array %s is missing", name);
    const lite_tensor *tensor = &of->context->tensors[of->inputs->data[of->next++]];
    const int dtype = dtype_of(tensor, &found->count);
    if (dtype < 0 || tensor->allocation_type != LITE_READ_ONLY || (uintptr_t)tensor->data % DTYPES[dtype].bytes)
        return msq_node_fail(node, MSQ_INVALID, "the array %s is no constant of the file", name);
    found->dtype = DTYPES[dtype].name;
    found->data = tensor->data;
    if (tensor->type != LITE_UINT8 || (uintptr_t)tensor->data % ATOM == 0) return MSQ_OK;
    if (of->copier == NULL)
        return msq_node_fail(node, MSQ_ALIGNMENT, "its packed weights lie %d bytes behind a multiple of 64: let the "
                             "runtime map the file, or give the delegate the option copy=1",
                             (int)((uintptr_t)tensor->data % ATOM));
    void *copy = aligned_alloc(ATOM, (tensor->bytes + ATOM - 1) / ATOM * ATOM);
    if (copy == NULL) return msq_node_fail(node, MSQ_MEMORY, "no memory for a copy of its weights");
    found->data = memcpy(copy, tensor->data, tensor->bytes);
    of->copier->copies[of->copier->copy_count++] = copy;
    return MSQ_OK;
}

static void name_of(const lite_tensor *tensor, char name[MOST_NAME]) {
    snprintf(name, MOST_NAME, "%s", tensor->name ? tensor->name : "");
}

bool msq_are_there(const lite_context *context, const lite_ints *places) {
    for (int i = 0; i < places->size; i++)
        if (places->data[i] < 0 || (size_t)places->data[i] >= context->tensors_size) return false;
    return true;
}

/* Whether a tensor is one image of int8 or float32. */
static bool is_image(const lite_tensor *tensor) {
    size_t count;
    return (tensor->type == LITE_INT8 || tensor->type == LITE_FLOAT32) && dtype_of(tensor, &count) >= 0 &&
           tensor->dims->size >= 2 && tensor->dims->size <= MSQ_MOST_RANK + 1 && tensor->dims->data[0] == 1;
}

/* Find the graph's tensor of a place in the runtime's array, or append it; −1 where it cannot be one of ours. */
static int32_t tensor_at(part *p, const lite_context *context, int place, bool is_input) {
    msq_graph *graph = &p->graph;
    for (int32_t i = 0; i < graph->tensor_count; i++)
        if (p->places[i] == place) return i;
    const lite_tensor *given = &context->tensors[place];
    msq_tensor tensor = {.is_input = is_input, .scale = 1};
    name_of(given, tensor.name);
    if (!is_image(given)) {
        msq_fail(MSQ_INVALID, "tensor %s: not one image of int8 or float32, its first dimension 1; or this runtime has "
                 "another binary interface than TensorFlow Lite 2 and LiteRT 2", tensor.name);
        return -1;
    }
    tensor.dtype = given->type == LITE_INT8 ? MSQ_INT8 : MSQ_FLOAT32;
    tensor.rank = given->dims->size - 1;
    memcpy(tensor.shape, given->dims->data + 1, (size_t)tensor.rank * sizeof *tensor.shape);
    if (tensor.dtype == MSQ_INT8) {
        tensor.scale = given->params.scale;
        tensor.zero = given->params.zero_point;
    }
    p->places[graph->tensor_count] = place;
    return msq_graph_add_tensor(graph, &tensor) ? -1 : graph->tensor_count - 1;
}

/* The operation of a custom operator's name, or NULL. */
static const msq_operation *ours(const lite_registration *registration) {
    const char *name = registration->custom_name;
    if (name == NULL || strncmp(name, PREFIX, sizeof PREFIX - 1)) return NULL;
    const msq_operation *found = msq_operation_named(name + sizeof PREFIX - 1, strlen(name) - (sizeof PREFIX - 1));
    return found && found->inputs > 0 ? found : NULL;
}

/* The operation of an operator of the runtime's own that needs no more than its tensors, or NULL. */
static const msq_operation *on_the_way(const lite_context *context, const lite_node *node,
                                       const lite_registration *registration) {
    const int code = registration->builtin_code;
    if ((code != LITE_RESHAPE && code != LITE_DEQUANTIZE) || !msq_are_there(context, node->inputs) ||
        !msq_are_there(context, node->outputs) || node->inputs->size < 1 || node->outputs->size != 1)
        return NULL;
    const lite_tensor *x = &context->tensors[node->inputs->data[0]], *y = &context->tensors[node->outputs->data[0]];
    if (!is_image(x) || !is_image(y) || x->type != LITE_INT8) return NULL;
    return code == LITE_RESHAPE ? msq_operation_named("reshape", 7) : msq_operation_named("dequantize", 10);
}

const msq_operation *msq_operation_of(const lite_context *context, const lite_node *node,
                                      const lite_registration *registration, bool *is_ours) {
    const msq_operation *found = ours(registration);
    *is_ours = found != NULL;
    return found ? found : on_the_way(context, node, registration);
}

static msq_status add_node(part *p, const lite_context *context, const lite_node *given,
                           const lite_registration *registration, bool copies) {
    msq_graph *graph = &p->graph;
    msq_json *json = &graph->json;
    bool own;
    const msq_operation *operation = msq_operation_of(context, given, registration, &own);
    msq_node node = {.operation = operation, .inputs = graph->inputs + graph->input_count};
    arrays of = {context, given->inputs, operation->inputs, copies ? p : NULL};
    if (given->inputs->size < of.next || given->outputs->size != 1 || !msq_are_there(context, given->inputs) ||
        !msq_are_there(context, given->outputs))
        return msq_node_fail(&node, MSQ_INVALID, "it has %d inputs and %d outputs", given->inputs->size,
                             given->outputs->size);
    name_of(&context->tensors[given->outputs->data[0]], node.name); /* it is called by what it makes */
    msq_status status = MSQ_OK;
    if (own) status = msq_flexbuffer_parse(json, given->custom_initial_data, (size_t)given->custom_initial_data_size);
    if (status) return msq_kernel_failed(&node, status);
    for (int i = 0; i < operation->inputs; i++) {
        const int32_t tensor = tensor_at(p, context, given->inputs->data[i], true);
        if (tensor < 0) return msq_kernel_failed(&node, MSQ_INVALID);
        node.inputs[node.input_count++] = tensor;
    }
    node.output = tensor_at(p, context, given->outputs->data[0], false);
    if (node.output < 0) return msq_kernel_failed(&node, MSQ_INVALID);
    graph->arrays = &of;
    status = msq_graph_add_node(graph, &node, 0);
    graph->arrays = NULL;
    msq_json_free(json);
    if (status == MSQ_OK && own && of.next < given->inputs->size)
        return msq_node_fail(&node, MSQ_INVALID, "%d inputs more than it reads", given->inputs->size - of.next);
    return status;
}

static msq_status build(part *p, lite_context *context, const lite_part *given, const msq_delegate *self) {
    msq_graph *graph = &p->graph;
    const lite_ints *nodes = given->nodes_to_replace;
    int32_t inputs = 0;
    lite_node *node;
    lite_registration *registration;
    for (int i = 0; i < nodes->size; i++) {
        if (context->GetNodeAndRegistration(context, nodes->data[i], &node, &registration))
            return msq_fail(MSQ_INVALID, "node %d is none of the graph", nodes->data[i]);
        inputs += node->inputs->size;
    }
    p->places = calloc((size_t)(inputs + nodes->size) + 1, sizeof *p->places);
    p->copies = calloc((size_t)nodes->size + 1, sizeof *p->copies);
    if (p->places == NULL || p->copies == NULL) return msq_fail(MSQ_MEMORY, "no memory for %d nodes", nodes->size);
    msq_status status = msq_graph_make(graph, inputs + nodes->size, nodes->size, inputs);
    if (status) return status;
    if ((graph->tier = msq_current_tier()) == NULL) return MSQ_UNSUPPORTED;
    graph->threads = self->threads;
    graph->find = find;
    for (int i = 0; i < nodes->size; i++) {
        context->GetNodeAndRegistration(context, nodes->data[i], &node, &registration);
        if ((status = add_node(p, context, node, registration, self->copies))) return status;
    }
    for (int32_t i = 0; i < graph->tensor_count; i++)
        for (int k = 0; k < given->output_tensors->size; k++)
            if (given->output_tensors->data[k] == p->places[i]) graph->tensors[i].is_output = true;
    if ((status = msq_schedule(graph, true))) return status;
    const size_t bytes = (graph->arena_bytes + ATOM) / ATOM * ATOM;
    p->arena = aligned_alloc(ATOM, bytes);
    if (p->arena == NULL) return msq_fail(MSQ_MEMORY, "no memory for an arena of %zu bytes", bytes);
    msq_settle(graph, p->arena);
    return MSQ_OK;
}

static void free_part(lite_context *context, void *made) {
    (void)context;
    part *p = made;
    if (p == NULL) return;
    msq_graph_free(&p->graph);
    for (int32_t i = 0; i < p->copy_count; i++) free(p->copies[i]);
    free(p->copies);
    free(p->places);
    free(p->arena);
    free(p);
}

/* What is refused here is told by `prepare`: a runtime goes on after a failure of this, and says other things too. */
static void *init(lite_context *context, const char *buffer, size_t length) {
    (void)length;
    const lite_part *given = (const lite_part *)(const void *)buffer;
    part *p = calloc(1, sizeof *p);
    if (p && build(p, context, given, (const msq_delegate *)given->delegate))
        snprintf(p->refusal, sizeof p->refusal, "%s", msq_error());
    return p;
}

/* Called again when an input was resized: the graph is made for the shapes in the file. */
static int prepare(lite_context *context, lite_node *node) {
    const part *p = node->user_data;
    if (p == NULL || p->refusal[0]) {
        context->ReportError(context, "msq: %s\n", p ? p->refusal : "no memory for a graph");
        return LITE_ERROR;
    }
    for (int32_t i = 0; i < p->graph.tensor_count; i++) {
        const msq_tensor *tensor = &p->graph.tensors[i];
        const lite_tensor *given = &context->tensors[p->places[i]];
        if (!tensor->is_input && !tensor->is_output) continue;
        bool fits = given->dims->size == tensor->rank + 1 && given->dims->data[0] == 1;
        for (int32_t k = 0; fits && k < tensor->rank; k++) fits = given->dims->data[k + 1] == tensor->shape[k];
        if (fits) continue;
        context->ReportError(context, "msq: tensor %s: the file's shape cannot be changed\n", tensor->name);
        return LITE_ERROR;
    }
    return LITE_OK;
}

static int invoke(lite_context *context, lite_node *node) {
    part *p = node->user_data;
    msq_graph *graph = &p->graph;
    for (int32_t i = 0; i < graph->tensor_count; i++) {
        msq_tensor *tensor = &graph->tensors[i];
        if (!tensor->is_input && !tensor->is_output) continue;
        tensor->data = context->tensors[p->places[i]].data;
        if (tensor->dtype != MSQ_FLOAT32 || !tensor->is_input) continue;
        const size_t wrong = msq_first_nan((const float *)tensor->data, tensor->count);
        if (wrong == tensor->count) continue;
        context->ReportError(context, "msq: tensor %s: element %d is not a number\n", tensor->name, (int)wrong);
        return LITE_ERROR;
    }
    for (int32_t i = 0; i < graph->node_count; i++)
        if (graph->nodes[i].done_by < 0) graph->nodes[i].operation->run(graph, &graph->nodes[i]);
    return LITE_OK;
}

const lite_registration msq_part_kernel = {
    .init = init,
    .free = free_part,
    .prepare = prepare,
    .invoke = invoke,
    .custom_name = "msq",
    .version = 1,
};
