/* Files of a bundle, mapped. */
#ifndef MSQ_FILES_H
#define MSQ_FILES_H

#include "msq_kernels.h"

typedef struct {
    uint8_t *at;
    size_t size;
} msq_mapping;

/* Map a file of a folder to be read. MSQ_FILE, MSQ_MEMORY. */
msq_status msq_map(msq_mapping *file, const char *folder, const char *name);
void msq_unmap(msq_mapping *file);

#endif
