/* The reader of manifest.json: the input is one, of a bundle whose other files are empty. */
#include "manifest.h"

#include <fcntl.h>
#include <unistd.h>

#include "fuzz.h"

msq_status fuzz_status;

static char folder[] = "/tmp/msq-fuzz-XXXXXX", path[3][64];
static int manifest;

static void remove_folder(void) {
    for (int i = 0; i < 3; i++) unlink(path[i]);
    rmdir(folder);
}

static void make_folder(void) {
    static const char *const NAMES[3] = {"manifest.json", "model.json", "weights.bin"};
    must(mkdtemp(folder));
    for (int i = 0; i < 3; i++) {
        snprintf(path[i], sizeof path[i], "%s/%s", folder, NAMES[i]);
        const int file = open(path[i], O_CREAT | O_WRONLY, 0600);
        must(file >= 0);
        if (i == 0)
            manifest = file;
        else
            close(file);
    }
    atexit(remove_folder);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    if (*path[0] == 0) make_folder();
    must(pwrite(manifest, data, size, 0) == (ssize_t)size && ftruncate(manifest, (off_t)size) == 0);
    msq_manifest found;
    if (fuzz_result(msq_manifest_read(&found, folder)) == MSQ_OK)
        must(found.channels >= 1 && found.channels <= MOST_CHANNELS);
    return 0;
}
