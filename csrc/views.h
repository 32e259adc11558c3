// The un-occluded input and all that a program makes of it: what is read wherever nothing changed.
#pragma once

#include <atomic>
#include <vector>

#include "program.h"
#include "threads.h"

namespace krypton {

// Boxes of a value that are noted one by one; more count as the whole.
inline constexpr std::size_t kMostSettled = 16;

class Views {
  public:
    // Evaluates the program on `input`, NDHWC (depth, height, width, channels), with `scratch` bytes for
    // operators. Throws std::runtime_error where `poll` cancels.
    Views(const Program& program, const float* input, std::size_t scratch, int threads, const Poll& poll);

    // A value of which nothing has changed.
    Plane plane(int value) const;
    // A layer's vector.
    const std::vector<float>& row(std::size_t layer) const { return rows_[layer]; }
    // The same before its epilogue.
    const std::vector<float>& sums(std::size_t layer) const { return sums_[layer]; }
    std::vector<float>& sums(std::size_t layer) { return sums_[layer]; }
    // Makes the changed box of a value a part of it, unless the value was released.
    void settle(int value, const Plane& changed);
    // After changes have been settled: no longer what any other was made of.
    void moved();
    // Begins to note what is settled, so that `become` need not copy the rest.
    void forked();
    // Makes all values those of `other`: of one that this was made of, only what was settled since.
    void become(const Views& other);
    // Frees a value that nobody reads any more.
    void release(int value) { std::vector<float>().swap(pixels_[value]); }

  private:
    const Program* program_;                       // a pointer, so that views can be assigned
    std::vector<std::vector<float>> pixels_;       // by value; of a constant, the program has them
    std::vector<std::vector<float>> sums_, rows_;  // by layer
    int64_t state_, origin_ = 0;             // numbers of what the values are, and of what they were made of
    std::vector<std::vector<Box>> settled_;  // by value: the boxes in which they differ from that

    // A share of the work, to be called on every thread: `next` counts the parts that are taken.
    void compute_operator(const Operator& op, std::atomic<int64_t>& next, int threads, Scratch& scratch,
                          const std::atomic<bool>& cancelled);
    void compute_layer(std::size_t layer, std::atomic<int64_t>& next, const std::atomic<bool>& cancelled);
};

// Pixels of the input as they are stored, with padded channels.
std::vector<float> stored_pixels(const Value& value, const float* pixels);

}  // namespace krypton
