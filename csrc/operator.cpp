#include "operator.h"

namespace krypton {

Box Operator::reach(const Box* changed) const {
    Box all = changed[0];
    for (std::size_t i = 1; i < operands.size(); ++i) all = join(all, changed[i]);
    return all;
}

void Operator::sensitivities(const float*, const float*, float*) const {}

void Operator::compute(const Kernels& kernels, const Job* jobs, int64_t count, Scratch& scratch) const {
    scratch.reset();
    run(kernels, jobs, count, scratch);
    if (epilogue.function == kIdentity) return;
    for (int64_t i = 0; i < count; ++i)
        kernels.activate({epilogue.function, epilogue.parameter, jobs[i].out, jobs[i].box.cells() * stored});
}

}  // namespace krypton
