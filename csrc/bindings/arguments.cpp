#include "bindings/arguments.h"

#include <stdexcept>

namespace krypton {

void require(bool condition, const std::string& message) {
    if (!condition) throw std::invalid_argument(message);
}

const Value& value_of(const Program& program, int value) {
    require(value >= 0 && value < static_cast<int>(program.values().size()), "there is no such value");
    return program.values()[value];
}

std::vector<Box> boxes_of(const Program& program, const Longs& extents) {
    require(extents.shape(0) == program.values().size() && extents.shape(1) == 2,
            "there is one extent for every value");
    std::vector<Box> boxes;
    for (std::size_t v = 0; v < program.values().size(); ++v) {
        const Value& value = program.values()[v];
        const int64_t height = extents.data()[2 * v], width = extents.data()[2 * v + 1];
        require(height >= 0 && height <= value.height && width >= 0 && width <= value.width,
                "an extent leaves its value");
        boxes.push_back({{0, height}, {0, width}});
    }
    return boxes;
}

void check_kept(const Program& program, const std::vector<int>& kept) {
    for (int v : kept)
        require(value_of(program, v).constant.empty(), "a constant is the same at every position");
}

}  // namespace krypton
