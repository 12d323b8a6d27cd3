#include "files.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "tier.h"

msq_status msq_map(msq_mapping *file, const char *folder, const char *name) {
    char path[4096];
    struct stat found;
    if ((size_t)snprintf(path, sizeof path, "%s/%s", folder, name) >= sizeof path)
        return msq_fail(MSQ_FILE, "%.80s…: the path is too long", folder);
    const int descriptor = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK); /* a pipe would wait for a writer */
    if (descriptor < 0) return msq_fail(MSQ_FILE, "%.200s: %s", path, strerror(errno));
    msq_status status = MSQ_OK;
    if (fstat(descriptor, &found) || !S_ISREG(found.st_mode)) {
        status = msq_fail(MSQ_FILE, "%.200s: not a file", path);
    } else if (found.st_size > 0) {
        file->size = (size_t)found.st_size;
        file->at = mmap(NULL, file->size, PROT_READ, MAP_PRIVATE, descriptor, 0);
        if (file->at == MAP_FAILED) {
            file->at = NULL;
            status = msq_fail(MSQ_MEMORY, "%.200s: it cannot be mapped: %s", path, strerror(errno));
        }
    }
    close(descriptor);
    return status;
}

void msq_unmap(msq_mapping *file) {
    if (file->at) munmap(file->at, file->size);
    *file = (msq_mapping){0};
}
