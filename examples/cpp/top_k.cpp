/* Prints the likeliest classes of an image:  top_k BUNDLE IMAGE K MEAN STD
 *
 * IMAGE is a binary PPM or PGM file, of the size that the model takes. MEAN and STD are those of the bundle's
 * manifest.json ("input"), a number for each channel with commas between: 0.485,0.456,0.406 */
#include <algorithm>
#include <fstream>
#include <iostream>
#include <numeric>
#include <sstream>

#include "msq.hpp"

namespace {

std::vector<float> numbers(const std::string &text, int32_t count) {
    std::vector<float> found;
    std::istringstream stream(text);
    for (std::string one; std::getline(stream, one, ',');) found.push_back(std::stof(one));
    if (found.size() != static_cast<size_t>(count))
        throw std::invalid_argument(text + ": " + std::to_string(count) + " numbers are wanted, one for each channel");
    return found;
}

/* The pixels of a file, as the model takes them: (pixel / 255 − mean) / std. */
std::vector<float> read_image(const std::string &path, const msq_tensor_info &wanted, const std::string &mean,
                              const std::string &std) {
    std::ifstream file(path, std::ios::binary);
    std::string magic;
    int32_t width = 0, height = 0, most = 0;
    file >> magic >> width >> height >> most;
    file.get();
    const int32_t channels = magic == "P6" ? 3 : magic == "P5" ? 1 : 0;
    if (!file || channels == 0 || most != 255)
        throw std::invalid_argument(path + ": not a binary PPM or PGM file of 8 bits");
    const int32_t shape[] = {height, width, channels};
    if (wanted.rank != 3 || !std::equal(shape, shape + 3, wanted.shape))
        throw std::invalid_argument(path + ": the model takes images of another size or number of channels");
    std::vector<unsigned char> pixels(wanted.count);
    if (!file.read(reinterpret_cast<char *>(pixels.data()), static_cast<std::streamsize>(pixels.size())))
        throw std::invalid_argument(path + ": it ends too early");
    const auto means = numbers(mean, channels), stds = numbers(std, channels);
    std::vector<float> image(pixels.size());
    for (size_t i = 0; i < image.size(); i++) {
        const size_t c = i % static_cast<size_t>(channels);
        image[i] = (static_cast<float>(pixels[i]) / 255.0f - means[c]) / stds[c];
    }
    return image;
}

}  // namespace

int main(int count, char **arguments) {
    if (count != 6) {
        std::cerr << "usage: top_k BUNDLE IMAGE K MEAN STD\n";
        return 2;
    }
    try {
        msq::Model model(arguments[1]);
        const auto scores = model.run(read_image(arguments[2], model.input(), arguments[4], arguments[5]));
        std::vector<size_t> order(scores.size());
        std::iota(order.begin(), order.end(), size_t{0});
        const auto end = order.begin() + std::clamp<long>(std::stol(arguments[3]), 0, static_cast<long>(order.size()));
        std::partial_sort(order.begin(), end, order.end(), [&](size_t a, size_t b) {
            return scores[a] > scores[b] || (scores[a] == scores[b] && a < b);
        });
        for (auto at = order.begin(); at != end; ++at) std::cout << *at << " " << scores[*at] << "\n";
        return 0;
    } catch (const std::exception &error) {
        std::cerr << "error: " << error.what() << "\n";
        return 1;
    }
}
