// One source for all instruction sets: compiled once for each, with KRYPTON_ISA the name of its namespace,
// KRYPTON_LANES the floats of a vector and KRYPTON_TILE the rows of a tile.
//
// Nothing here may be an inline function that another translation unit has too: the linker keeps one copy,
// perhaps the one for the wide machine. So no standard library but what is a macro or a builtin.
#include "cpu/convolution.h"
#include "cpu/lanes.h"
#include "cpu/normalisation.h"
#include "cpu/peak.h"
#include "cpu/pointwise.h"
#include "cpu/pooling.h"
#include "cpu/product.h"
#include "cpu/sums.h"
#include "cpu/winograd.h"

namespace krypton {
namespace KRYPTON_ISA {
namespace {

void flush_denormals() {
#if defined(__x86_64__)
    _mm_setcsr(_mm_getcsr() | 0x8040);  // flush to zero, denormals are zero
#elif defined(__aarch64__)
    uint64_t state;
    __asm__ volatile("mrs %0, fpcr" : "=r"(state));
    __asm__ volatile("msr fpcr, %0" : : "r"(state | (uint64_t{1} << 24)));
#endif
}

template <int Y, int X>
constexpr void put(Kernels& k) {
    k.winograd_input[Y][X] = winograd_input<Y, X>;
    k.winograd_output[Y][X] = winograd_output<Y, X>;
}

constexpr Kernels make() {
    Kernels k{};
#define KRYPTON_TEXT_OF(x) #x
#define KRYPTON_TEXT(x) KRYPTON_TEXT_OF(x)
    k.name = KRYPTON_TEXT(KRYPTON_ISA);
    k.panel = kPanel;
    k.tile = kTile;
    k.multiply = multiply;
    put<kF2x3, kF2x3>(k);
    put<kF2x3, kF3x3>(k);
    put<kF2x3, kF4x3>(k);
    put<kF3x3, kF2x3>(k);
    put<kF3x3, kF3x3>(k);
    put<kF3x3, kF4x3>(k);
    put<kF4x3, kF2x3>(k);
    put<kF4x3, kF3x3>(k);
    put<kF4x3, kF4x3>(k);
    put<kF2x5, kF2x5>(k);
    put<kS2x3, kS2x3>(k);
    put<kS2x3, kS3x3>(k);
    put<kS3x3, kS2x3>(k);
    put<kS3x3, kS3x3>(k);
    put<kF1x1, kF2x3>(k);
    put<kF1x1, kF3x3>(k);
    put<kF1x1, kF4x3>(k);
    put<kF1x1, kF2x5>(k);
    put<kF1x1, kF2x7>(k);
    put<kF1x1, kF3x7>(k);
    put<kF2x3, kF1x1>(k);
    put<kF3x3, kF1x1>(k);
    put<kF4x3, kF1x1>(k);
    put<kF2x5, kF1x1>(k);
    put<kF2x7, kF1x1>(k);
    put<kF3x7, kF1x1>(k);
    k.winograd_pair_input = winograd_pair_input;
    k.winograd_pair_output = winograd_pair_output;
    k.depthwise = depthwise;
    k.pool = pool;
    k.activate = activate;
    k.combine = combine;
    k.layer_norm = layer_norm;
    k.sum = sum;
    k.multiply_add = multiply_add;
    k.turn_operations = kTurnOperations;
    k.flush_denormals = flush_denormals;
    return k;
}

}  // namespace

extern const Kernels table;
constexpr Kernels kTable = make();
const Kernels table = kTable;

}  // namespace KRYPTON_ISA
}  // namespace krypton
