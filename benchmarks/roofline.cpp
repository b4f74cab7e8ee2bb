// What one core can do at most: fused multiply-adds a second, and bytes a second read from an array. Used by roofline.py.

#include <cstdint>

#if defined(__AVX512F__)
constexpr int kBytes = 64;
#elif defined(__AVX__)
constexpr int kBytes = 32;
#else
constexpr int kBytes = 16;
#endif
typedef float Vec __attribute__((vector_size(kBytes), aligned(4), may_alias));
constexpr int kLanes = kBytes / 4, kChains = 12;  // as many independent sums as hide the latency

extern "C" {

// Runs `steps` steps and returns the number of multiply-adds.
int64_t multiply_adds(int64_t steps, float factor, float* result) {
    Vec sum[kChains];
    for (int k = 0; k < kChains; k++) sum[k] = Vec{} + static_cast<float>(k);
    const Vec f = Vec{} + factor;
    for (int64_t i = 0; i < steps; i++)
#pragma GCC unroll 12
        for (int k = 0; k < kChains; k++) sum[k] = sum[k] * f + f;
    Vec total{};
    for (int k = 0; k < kChains; k++) total += sum[k];
    for (int k = 0; k < kLanes; k++) *result += total[k];
    return steps * kChains * kLanes;
}

// Reads rows of `width` floats in the order of `index`, as the sum over neighbours does; returns a value that needs all.
float read_rows(const float* rows, const int64_t* index, int64_t count, int64_t width) {
    Vec sum[4] = {};
    for (int64_t e = 0; e < count; e++) {
        const float* row = rows + index[e] * width;
        int64_t i = 0;
        for (; i + 4 * kLanes <= width; i += 4 * kLanes)
            for (int k = 0; k < 4; k++) sum[k] += *reinterpret_cast<const Vec*>(row + i + k * kLanes);
        for (; i + kLanes <= width; i += kLanes) sum[0] += *reinterpret_cast<const Vec*>(row + i);
    }
    const Vec total = sum[0] + sum[1] + sum[2] + sum[3];
    float result = 0;
    for (int k = 0; k < kLanes; k++) result += total[k];
    return result;
}
}
