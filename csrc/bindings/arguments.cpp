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
    require(extents.shape(0) == program.values().size() && extents.shape(1) == kAxes,
            "there is one extent for every value");
    std::vector<Box> boxes;
    for (std::size_t v = 0; v < program.values().size(); ++v) {
        Sizes sizes;
        for (Axis axis : kAllAxes) {
            sizes[axis] = extents.data()[kAxes * v + axis];
            require(sizes[axis] >= 0 && sizes[axis] <= program.values()[v].sizes[axis],
                    "an extent leaves its value");
        }
        boxes.push_back(Box::of(sizes));
    }
    return boxes;
}

void check_kept(const Program& program, const std::vector<int>& kept) {
    for (int v : kept)
        require(value_of(program, v).constant.empty(), "a constant is the same at every position");
}

}  // namespace krypton
