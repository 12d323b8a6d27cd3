/* The native runtime for C++17: a model that frees itself, and exceptions in place of statuses. */
#pragma once

#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

#include "msq_native.h"

namespace msq {

class Error : public std::runtime_error {
public:
    explicit Error(msq_status status) : std::runtime_error(msq_error()), status(status) {}
    const msq_status status;
};

inline void check(msq_status status) {
    if (status != MSQ_OK) throw Error(status);
}

/* A bundle's model. It can be moved, not copied, and is used by one thread at a time. */
class Model {
public:
    explicit Model(const std::string &folder, int threads = 1) {
        const msq_options options = {MSQ_NATIVE_ABI, threads, 1};
        msq_model *loaded = nullptr;
        check(msq_model_load(folder.c_str(), &options, &loaded));
        model_.reset(loaded);
    }

    msq_tensor_info input() const {
        msq_tensor_info info;
        msq_model_input(model_.get(), &info);
        return info;
    }

    msq_tensor_info output() const {
        msq_tensor_info info;
        msq_model_output(model_.get(), &info);
        return info;
    }

    /* The outputs of whole images that lie one after another. */
    std::vector<float> run(const std::vector<float> &images) {
        const auto count = static_cast<int32_t>(images.size() / input().count);
        std::vector<float> outputs(static_cast<size_t>(count) * output().count);
        check(msq_model_run(model_.get(), count, images.data(), images.size() * sizeof(float), outputs.data(),
                            outputs.size() * sizeof(float)));
        return outputs;
    }

private:
    struct Free {
        void operator()(msq_model *model) const { msq_model_free(model); }
    };
    std::unique_ptr<msq_model, Free> model_;
};

}  // namespace msq
