/* A part of a TFLite graph: operators that the delegate has taken over and that can run one after another. They are one
 * node of the runtime, which holds the integer model's graph of them: it is scheduled and run as the native runtime's.
 */
#ifndef MSQ_PART_H
#define MSQ_PART_H

#include "graph.h"
#include "tflite_api.h"

typedef struct {
    lite_delegate face; /* first: the runtime has its address */
    msq_threads *threads;
    bool copies; /* weights that do not lie at a multiple of 64 bytes */
    int32_t operators;
} msq_delegate;

/* What the runtime makes a part of its nodes by. */
extern const lite_registration msq_part_kernel;

/* The operation that an operator is: one of ours, by the name of a custom operator; or one of the runtime's own that
 * needs no more than its tensors, and so can be had on the way. NULL if it is neither. */
const msq_operation *msq_operation_of(const lite_context *context, const lite_node *node,
                                      const lite_registration *registration, bool *is_ours);

/* Whether tensors are all there: optional ones, which have a place of −1, are none of ours. */
bool msq_are_there(const lite_context *context, const lite_ints *places);

#endif
