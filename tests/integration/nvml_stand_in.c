/* NVML for a machine without one: the few calls that are used, answered from the environment.

   STAND_IN_INIT is what nvmlInit returns (0: success), STAND_IN_DRIVER the driver's version, STAND_IN_CUDA the number
   of its CUDA version (12020: 12.2), STAND_IN_GPUS the compute capabilities of the GPUs, such as 80,90. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef void *nvmlDevice_t;
typedef struct { unsigned long long total, free, used; } nvmlMemory_t;

static const char *given(const char *name, const char *otherwise) {
    const char *value = getenv(name);
    return value ? value : otherwise;
}

static int capability(unsigned int index) { /* ten times the version, or -1 where there is no such GPU */
    const char *at = given("STAND_IN_GPUS", "");
    for (; *at; at = strchr(at, ',') ? strchr(at, ',') + 1 : "")
        if (index-- == 0) return atoi(at);
    return -1;
}

int nvmlInitWithFlags(unsigned int flags) { (void)flags; return atoi(given("STAND_IN_INIT", "0")); }
int nvmlInit_v2(void) { return nvmlInitWithFlags(0); }
int nvmlInit(void) { return nvmlInitWithFlags(0); }
int nvmlShutdown(void) { return 0; }
const char *nvmlErrorString(int code) { return code == 18 ? "Driver/library version mismatch" : "an error"; }

int nvmlSystemGetDriverVersion(char *version, unsigned int length) {
    snprintf(version, length, "%s", given("STAND_IN_DRIVER", "535.104.05"));
    return 0;
}

int nvmlSystemGetCudaDriverVersion(int *version) {
    *version = atoi(given("STAND_IN_CUDA", "12020"));
    return atoi(given("STAND_IN_INIT", "0"));
}
int nvmlSystemGetCudaDriverVersion_v2(int *version) { return nvmlSystemGetCudaDriverVersion(version); }

int nvmlDeviceGetCount_v2(unsigned int *count) {
    for (*count = 0; capability(*count) >= 0; ++*count) {}
    return 0;
}
int nvmlDeviceGetCount(unsigned int *count) { return nvmlDeviceGetCount_v2(count); }

int nvmlDeviceGetHandleByIndex_v2(unsigned int index, nvmlDevice_t *device) {
    *device = (nvmlDevice_t)(size_t)(index + 1);
    return capability(index) < 0 ? 2 : 0;
}
int nvmlDeviceGetHandleByIndex(unsigned int index, nvmlDevice_t *device) {
    return nvmlDeviceGetHandleByIndex_v2(index, device);
}

int nvmlDeviceGetName(nvmlDevice_t device, char *name, unsigned int length) {
    snprintf(name, length, "Stand-in %zu", (size_t)device - 1);
    return 0;
}

int nvmlDeviceGetCudaComputeCapability(nvmlDevice_t device, int *major, int *minor) {
    int found = capability((unsigned int)(size_t)device - 1);
    *major = found / 10;
    *minor = found % 10;
    return 0;
}

int nvmlDeviceGetMemoryInfo(nvmlDevice_t device, nvmlMemory_t *memory) {
    (void)device;
    memory->total = 16ull << 30;
    memory->free = memory->total;
    memory->used = 0;
    return 0;
}
