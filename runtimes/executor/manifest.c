#include "manifest.h"

#include "files.h"
#include "json.h"
#include "sha256.h"
#include "tier.h"

static const char *const LOADED[] = {"model.json", "weights.bin"};

static msq_status check_file(const msq_json *json, const char *folder, const char *name) {
    const int32_t wanted = msq_json_member(json, msq_json_member(json, 0, "files"), name);
    if (!msq_json_is(json, wanted, JSON_STRING))
        return msq_fail(MSQ_FILE, "%.150s/manifest.json: it has no sha256 of %s", folder, name);
    msq_mapping file = {0};
    const msq_status status = msq_map(&file, folder, name);
    if (status) return status;
    char found[65];
    msq_sha256(file.at, file.size, found);
    msq_unmap(&file);
    if (msq_json_equals(json, wanted, found)) return MSQ_OK;
    return msq_fail(MSQ_FILE, "%.120s/%s: sha256 is %.12s…, the manifest says %.12s…", folder, name, found,
                    json->values[wanted].size < 12 ? "less" : json->values[wanted].at);
}

/* Read one number a channel. */
static int32_t read_channels(const msq_json *json, const char *name, float out[MOST_CHANNELS]) {
    const int32_t list = msq_json_member(json, msq_json_member(json, 0, "input"), name);
    int32_t count = 0;
    for (int32_t i = msq_json_first(json, list); i >= 0; i = msq_json_next(json, list, i)) {
        double number;
        if (count == MOST_CHANNELS || !msq_json_double(json, i, &number)) return -1;
        out[count++] = (float)number;
    }
    return count;
}

msq_status msq_manifest_read(msq_manifest *manifest, const char *folder) {
    msq_mapping file = {0};
    msq_json json;
    msq_status status = msq_map(&file, folder, "manifest.json");
    if (status) return status;
    status = msq_json_parse(&json, (const char *)file.at, file.size);
    if (status) msq_fail(status, "%.100s/manifest.json: %s", folder, msq_error());
    for (size_t i = 0; status == MSQ_OK && i < sizeof LOADED / sizeof *LOADED; i++)
        status = check_file(&json, folder, LOADED[i]);
    if (status == MSQ_OK) {
        manifest->channels = read_channels(&json, "mean", manifest->mean);
        if (manifest->channels < 1 || read_channels(&json, "std", manifest->std) != manifest->channels)
            status = msq_fail(MSQ_FILE, "%.150s/manifest.json: its input's mean and std cannot be read", folder);
    }
    msq_json_free(&json);
    msq_unmap(&file);
    return status;
}
