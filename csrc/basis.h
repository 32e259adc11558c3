// What all positions of a session have in common.
#pragma once

#include <memory>
#include <vector>

#include "layout.h"
#include "outside.h"
#include "shrink.h"
#include "views.h"

namespace krypton {

struct Basis {
    std::shared_ptr<const Program> program;
    std::vector<Shrink> shrinks;  // by value; empty where nothing is dropped of any
    Room room;                    // of the largest boxes
    std::vector<float> baseline;  // of the input, stored
    Views views;
    std::vector<Outside> outside;  // by value; empty where no effect is asked for of any

    bool shrinks_value(int value) const { return !shrinks.empty() && shrinks[value].threshold > 0; }
    bool tells_outside(int value) const { return !outside.empty() && !outside[value].empty(); }
};

}  // namespace krypton
