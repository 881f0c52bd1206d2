// CUDA C++ as ordinary C++: a block is executed thread after thread, each with a stack of its own, which it leaves at barriers
// and shuffles until all threads of its block or warp are there. Compile with -ffp-contract=off.
#pragma once
#include <cmath>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <ucontext.h>
#include <vector>

struct Dim { unsigned x, y, z; };
static Dim threadIdx, blockIdx, blockDim, gridDim;

#define __global__
#define __device__
#define __forceinline__ inline
#define __noinline__ __attribute__((noinline))
#define __launch_bounds__(...)
#define __shared__ static
#define __align__(n) __attribute__((aligned(n)))

#define VECTORS(type, name) \
  struct alignas(2 * sizeof(type)) name##2 { type x, y; }; \
  struct alignas(4 * sizeof(type)) name##4 { type x, y, z, w; }; \
  static inline name##2 make_##name##2(type x, type y) { return name##2{x, y}; } \
  static inline name##4 make_##name##4(type x, type y, type z, type w) { return name##4{x, y, z, w}; }
VECTORS(float, float)
VECTORS(double, double)
VECTORS(int, int)
VECTORS(unsigned, uint)
VECTORS(short, short)
VECTORS(unsigned short, ushort)
VECTORS(signed char, char)
VECTORS(unsigned char, uchar)
VECTORS(long long, longlong)
VECTORS(unsigned long long, ulonglong)

#define OPERATION(name, type, result) static inline type name(type a, type b) { return result; }
OPERATION(__fadd_rn, float, a + b)
OPERATION(__fsub_rn, float, a - b)
OPERATION(__fmul_rn, float, a * b)
OPERATION(__fdiv_rn, float, a / b)
OPERATION(__dadd_rn, double, a + b)
OPERATION(__dsub_rn, double, a - b)
OPERATION(__dmul_rn, double, a * b)
OPERATION(__ddiv_rn, double, a / b)
static inline float __fsqrt_rn(float a) { return sqrtf(a); }
static inline double __dsqrt_rn(double a) { return sqrt(a); }
static inline float __fmaf_rn(float a, float b, float c) { return fmaf(a, b, c); }
static inline double __fma_rn(double a, double b, double c) { return fma(a, b, c); }

template <class To, class From> static inline To bits(From from) {
  static_assert(sizeof(To) == sizeof(From), "bits");
  To to;
  memcpy(&to, &from, sizeof to);
  return to;
}
static inline float __uint_as_float(unsigned a) { return bits<float>(a); }
static inline float __int_as_float(int a) { return bits<float>(a); }
static inline unsigned __float_as_uint(float a) { return bits<unsigned>(a); }
static inline int __float_as_int(float a) { return bits<int>(a); }
static inline long long __double_as_longlong(double a) { return bits<long long>(a); }
static inline double __longlong_as_double(long long a) { return bits<double>(a); }

namespace emulator {

enum State { RUNS, AT_BARRIER, AT_WARP, OVER };
struct Fiber {
  ucontext_t context;
  State state;
  Dim index;
  unsigned long long shuffled;
  char* stack;
};
static const size_t STACK = 1 << 16;
static const unsigned WARP = 32;
static std::vector<Fiber> fibers;
static ucontext_t scheduler;
static unsigned current;
static std::function<void()> body;

static void enter() {
  body();
  fibers[current].state = OVER;
  swapcontext(&fibers[current].context, &scheduler);
}

static void wait(State state) {
  fibers[current].state = state;
  swapcontext(&fibers[current].context, &scheduler);
}

// Whether all threads from first to last that still run are waiting for each other; if so, they go on.
static bool release(unsigned first, unsigned last, State state) {
  bool any = false;
  for (unsigned t = first; t < last; ++t) {
    if (fibers[t].state != state && fibers[t].state != OVER) return false;
    any = any || fibers[t].state == state;
  }
  for (unsigned t = first; t < last; ++t)
    if (fibers[t].state == state) fibers[t].state = RUNS;
  return any;
}

static void block_with_barriers(Dim size) {
  const unsigned count = size.x * size.y * size.z;
  while (fibers.size() < count) {
    fibers.emplace_back();
    fibers.back().stack = (char*)malloc(STACK);
  }
  for (unsigned t = 0; t < count; ++t) {
    Fiber& f = fibers[t];
    getcontext(&f.context);
    f.context.uc_stack.ss_sp = f.stack;
    f.context.uc_stack.ss_size = STACK;
    f.context.uc_link = nullptr;
    f.state = RUNS;
    f.index = {t % size.x, t / size.x % size.y, t / size.x / size.y};
    makecontext(&f.context, enter, 0);
  }
  for (;;) {
    bool ran = false, over = true;
    for (current = 0; current < count; ++current) {
      if (fibers[current].state != RUNS) continue;
      ran = true;
      threadIdx = fibers[current].index;
      swapcontext(&scheduler, &fibers[current].context);
    }
    for (unsigned t = 0; t < count; t += WARP) ran |= release(t, t + WARP < count ? t + WARP : count, AT_WARP);
    ran |= release(0, count, AT_BARRIER);
    for (unsigned t = 0; t < count; ++t) over = over && fibers[t].state == OVER;
    if (over) return;
    if (!ran) abort();  // threads that wait for different things: a barrier that not all reach
  }
}

static void block_without(Dim size) {
  for (threadIdx.z = 0; threadIdx.z < size.z; ++threadIdx.z)
    for (threadIdx.y = 0; threadIdx.y < size.y; ++threadIdx.y)
      for (threadIdx.x = 0; threadIdx.x < size.x; ++threadIdx.x) body();
}

template <class T> static T shuffle(T value, unsigned lane_of_source, bool exists) {
  const unsigned mine = current, first = mine / WARP * WARP;
  static_assert(sizeof(T) <= sizeof fibers[0].shuffled, "shuffle");
  memcpy(&fibers[mine].shuffled, &value, sizeof value);
  wait(AT_WARP);
  T result = value;
  if (exists) memcpy(&result, &fibers[first + lane_of_source].shuffled, sizeof result);
  wait(AT_WARP);
  return result;
}

template <class... A, size_t... I>
static void launch(void (*kernel)(A...), void** values, bool barriers, Dim grid, Dim block, std::index_sequence<I...>) {
  body = [=] { kernel(*(A*)values[I]...); };
  blockDim = block, gridDim = grid;
  for (blockIdx.z = 0; blockIdx.z < grid.z; ++blockIdx.z)
    for (blockIdx.y = 0; blockIdx.y < grid.y; ++blockIdx.y)
      for (blockIdx.x = 0; blockIdx.x < grid.x; ++blockIdx.x) barriers ? block_with_barriers(block) : block_without(block);
}

template <class... A> static void launch(void (*kernel)(A...), void** values, bool barriers, Dim grid, Dim block) {
  launch(kernel, values, barriers, grid, block, std::index_sequence_for<A...>());
}

}  // namespace emulator

static inline void __syncthreads() { emulator::wait(emulator::AT_BARRIER); }
static inline void __syncwarp(unsigned = ~0u) { emulator::wait(emulator::AT_WARP); }
template <class T> static inline T __shfl_xor_sync(unsigned, T value, int mask, int = 32) {
  return emulator::shuffle(value, emulator::current % 32 ^ mask, true);
}
template <class T> static inline T __shfl_down_sync(unsigned, T value, unsigned delta, int = 32) {
  const unsigned lane = emulator::current % 32;
  return emulator::shuffle(value, lane + delta, lane + delta < 32);
}
template <class T> static inline T __shfl_up_sync(unsigned, T value, unsigned delta, int = 32) {
  const unsigned lane = emulator::current % 32;
  return emulator::shuffle(value, lane - delta, lane >= delta);
}
template <class T> static inline T __shfl_sync(unsigned, T value, int source, int = 32) {
  return emulator::shuffle(value, source % 32, true);
}

// g++ takes an attribute behind "static", but not the standard's alignas.
#define alignas(n) __attribute__((aligned(n)))
