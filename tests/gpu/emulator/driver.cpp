// A libcuda.so.1 without a GPU: memory of the host stands for that of the device, with guards around it, and kernels are
// shared objects made from their CUDA source (device.h), found by a hash of the fat binary. What it is told by the environment:
//   EMULATED_KERNELS  folder of those objects
//   EMULATED_FAILURE  FUNCTION=STATUS: that function fails
//   EMULATED_DEVICE   NAME;MAJOR;MINOR, or nothing for no device
//   EMULATED_VERSION  of the driver
//   EMULATED_LOG      file to which each call is appended
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <dlfcn.h>
#include <map>
#include <string>
#include <thread>

typedef unsigned long long Address;
struct Dim { unsigned x, y, z; };
struct Event { double seconds; };
typedef void (*Kernel)(void**, Dim, Dim);

static const size_t GUARD = 256;
static std::map<Address, size_t> memory;

static std::string setting(const char* name, const char* otherwise) {
  const char* found = getenv(name);
  return found ? found : otherwise;
}

static int called(const char* name, const std::string& more = "") {
  const std::string log = setting("EMULATED_LOG", ""), failure = setting("EMULATED_FAILURE", "");
  if (!log.empty()) {
    FILE* f = fopen(log.c_str(), "a");
    fprintf(f, "%s %s\n", name, more.c_str());
    fclose(f);
  }
  const size_t split = failure.find('=');
  return split != std::string::npos && failure.substr(0, split) == name ? atoi(failure.c_str() + split + 1) : 0;
}

static bool within(Address address, size_t size) {
  auto next = memory.upper_bound(address);
  if (next == memory.begin()) return false;
  --next;
  return address + size <= next->first + next->second;
}

static int guarded() {
  for (const auto& m : memory)
    for (size_t k = 0; k < GUARD; ++k)
      if (((unsigned char*)m.first)[m.second + k] != 0xA5 || ((unsigned char*)m.first)[-1 - (long)k] != 0xA5) return 700;
  return 0;
}

extern "C" {

int cuInit(unsigned) { return called("cuInit"); }
int cuDriverGetVersion(int* version) {
  *version = atoi(setting("EMULATED_VERSION", "13000").c_str());
  return called("cuDriverGetVersion");
}
int cuGetErrorName(int status, const char** text) {
  *text = status == 100 ? "CUDA_ERROR_NO_DEVICE" : status == 209 ? "CUDA_ERROR_NO_BINARY_FOR_GPU" : "CUDA_ERROR_EMULATED";
  return 0;
}
int cuGetErrorString(int, const char** text) { *text = "an error of the emulator"; return 0; }
int cuDeviceGetCount(int* count) {
  *count = setting("EMULATED_DEVICE", "Emulated GPU;9;0").empty() ? 0 : 1;
  return called("cuDeviceGetCount");
}
int cuDeviceGetName(char* name, int size, int) {
  const std::string device = setting("EMULATED_DEVICE", "Emulated GPU;9;0");
  snprintf(name, size, "%s", device.substr(0, device.find(';')).c_str());
  return called("cuDeviceGetName");
}
int cuDeviceTotalMem_v2(size_t* size, int) { *size = (size_t)1 << 32; return called("cuDeviceTotalMem_v2"); }
int cuDeviceGetAttribute(int* value, int attribute, int) {
  const std::string device = setting("EMULATED_DEVICE", "Emulated GPU;9;0");
  const size_t first = device.find(';'), second = device.find(';', first + 1);
  *value = attribute == 75 ? atoi(device.c_str() + first + 1) : attribute == 76 ? atoi(device.c_str() + second + 1) : 1000;
  return 0;
}
int cuDevicePrimaryCtxRetain(void** context, int) { *context = &memory; return called("cuDevicePrimaryCtxRetain"); }
int cuCtxSetCurrent(void* context) { return context == &memory ? called("cuCtxSetCurrent") : 201; }
int cuMemAlloc_v2(Address* address, size_t size) {
  char* whole = (char*)aligned_alloc(256, (size + 2 * GUARD + 255) / 256 * 256);
  memset(whole, 0xA5, size + 2 * GUARD);
  memset(whole + GUARD, 0xCD, size);
  *address = (Address)(whole + GUARD);
  memory[*address] = size;
  return called("cuMemAlloc_v2", std::to_string(size));
}
int cuMemFree_v2(Address address) {
  const int status = guarded();
  if (status || !memory.erase(address)) return status ? status : 1;
  free((char*)address - GUARD);
  return called("cuMemFree_v2");
}
int cuMemcpyHtoD_v2(Address target, const void* source, size_t size) {
  if (!within(target, size)) return 1;
  memcpy((void*)target, source, size);
  return called("cuMemcpyHtoD_v2", std::to_string(size));
}
int cuMemcpyDtoH_v2(void* target, Address source, size_t size) {
  if (!within(source, size)) return 1;
  memcpy(target, (void*)source, size);
  return called("cuMemcpyDtoH_v2", std::to_string(size));
}
int cuMemcpyDtoDAsync_v2(Address target, Address source, size_t size, void*) {
  if (!within(target, size) || !within(source, size)) return 1;
  memmove((void*)target, (void*)source, size);
  return called("cuMemcpyDtoDAsync_v2", std::to_string(size));
}
int cuModuleLoadData(void** module, const void* image) {
  const unsigned char* bytes = (const unsigned char*)image;
  if (*(const uint32_t*)bytes != 0xBA55ED50u) return 200;
  const size_t size = *(const uint16_t*)(bytes + 6) + *(const uint64_t*)(bytes + 8);
  uint64_t hash = 0xcbf29ce484222325ull;
  for (size_t k = 0; k < size / 8; ++k) hash = (hash ^ ((const uint64_t*)bytes)[k]) * 0x100000001b3ull;
  char name[32];
  snprintf(name, sizeof name, "/%016llx.so", (unsigned long long)hash);
  *module = dlopen((setting("EMULATED_KERNELS", ".") + name).c_str(), RTLD_NOW | RTLD_LOCAL);
  const int status = called("cuModuleLoadData", name);
  return *module ? status : 209;
}
int cuModuleUnload(void* module) { dlclose(module); return called("cuModuleUnload"); }
int cuModuleGetFunction(void** function, void* module, const char* name) {
  *function = dlsym(module, (std::string("emulated_") + name).c_str());
  const int status = called("cuModuleGetFunction", name);
  return *function ? status : 500;
}
int cuLaunchKernel(void* function, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz, unsigned shared,
                   void*, void** values, void** extra) {
  if (!gx || !gy || !gz || !bx || !by || !bz || bx * by * bz > 1024 || shared || extra) return 1;
  const int status = called("cuLaunchKernel");
  if (!status) ((Kernel)function)(values, Dim{gx, gy, gz}, Dim{bx, by, bz});
  return status;
}
int cuCtxSynchronize() { const int status = guarded(); return status ? status : called("cuCtxSynchronize"); }
int cuEventCreate(void** event, unsigned) { *event = new Event{0}; return called("cuEventCreate"); }
int cuEventRecord(void* event, void*) {
  std::this_thread::sleep_for(std::chrono::microseconds(1));
  ((Event*)event)->seconds = std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
  return called("cuEventRecord");
}
int cuEventSynchronize(void*) { return called("cuEventSynchronize"); }
int cuEventElapsedTime(float* milliseconds, void* from, void* to) {
  *milliseconds = (float)((((Event*)to)->seconds - ((Event*)from)->seconds) * 1e3);
  return called("cuEventElapsedTime");
}
int cuEventDestroy_v2(void* event) { delete (Event*)event; return called("cuEventDestroy_v2"); }

}
