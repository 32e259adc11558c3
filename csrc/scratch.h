// Memory for what an operator needs while it runs.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace krypton {

// Memory that lives until the next `reset`. What exceeds the bytes foreseen is allocated beside them.
class Scratch {
  public:
    explicit Scratch(std::size_t bytes) : memory_(bytes + kAlign), used_(0) {}

    void reset() {
        used_ = 0;
        more_.clear();
    }
    template <typename T>
    T* take(int64_t count) {
        const std::size_t bytes =
            (static_cast<std::size_t>(count) * sizeof(T) + kAlign - 1) / kAlign * kAlign;
        return reinterpret_cast<T*>(take_bytes(bytes));
    }
    // Whether it ever took more than the bytes foreseen.
    bool exceeded() const { return exceeded_; }

  private:
    static constexpr std::size_t kAlign = 64;
    char* take_bytes(std::size_t bytes);
    std::vector<char> memory_;
    std::vector<std::vector<char>> more_;
    std::size_t used_;
    bool exceeded_ = false;
};

}  // namespace krypton
