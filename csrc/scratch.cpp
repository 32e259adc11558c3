#include "scratch.h"

namespace krypton {

char* Scratch::take_bytes(std::size_t bytes) {
    const auto start = (reinterpret_cast<std::uintptr_t>(memory_.data()) + kAlign - 1) / kAlign * kAlign;
    const std::size_t offset = start - reinterpret_cast<std::uintptr_t>(memory_.data());
    if (offset + used_ + bytes > memory_.size()) {
        // The bound was too low: still right, only not foreseen.
        exceeded_ = true;
        more_.emplace_back(bytes + kAlign);
        char* p = more_.back().data();
        return p + (kAlign - reinterpret_cast<std::uintptr_t>(p) % kAlign) % kAlign;
    }
    char* p = memory_.data() + offset + used_;
    used_ += bytes;
    return p;
}

}  // namespace krypton
