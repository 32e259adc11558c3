#include "weights.h"

namespace krypton {

std::vector<float> padded(const float* values, int64_t count, int64_t size) {
    std::vector<float> out(size, 0.0f);
    if (values) std::copy_n(values, count, out.begin());
    return out;
}

}  // namespace krypton
