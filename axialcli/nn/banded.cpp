/* Softmax attention within a band, for float32 and bfloat16 on a processor. See banded.py, its only caller. */

#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <math.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

/* How far apart neighbours lie in memory, in numbers; channels of a head are always next to each other. */
typedef struct {
    int64_t outer, along, inner, head;
} Strides;

/* Lines are numbered [outer][inner]; `inner` is how many belong to one outer step. Query i stands where
 * key i + ahead stands, and sees the keys within span / 2 of it. slots: where each key lies along its
 * line, or NULL where that is its number. bias: [heads][span], or NULL. */
typedef struct {
    void *out;
    const void *q, *k, *v;
    const float *bias;
    const int64_t *slots;
    int64_t lines, inner, queries, keys, ahead, heads, channels, span;
    Strides of_out, of_q, of_k;
} Band;

#define CHUNK 64 /* queries of a line whose keys are transposed together: they stay in the second cache */
#define GRAIN 2  /* parts that a thread takes at once */
#define AHEAD 4  /* keys between the one that is asked for from memory and the one that is transposed */
#define CACHE_LINE 64 /* bytes */

static inline int64_t larger(int64_t a, int64_t b) { return a > b ? a : b; }
static inline int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }

#if defined(__x86_64__)
#define LANES 16
#define QUERIES 4
#define KEYS 4
#define CHANNELS 4
#define TARGET __attribute__((target("avx512f,prefer-vector-width=512")))
#define LOW 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23
#define HIGH 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31
#define BFLOAT16 0
#define NAME(x) x##_avx512
#include "banded_lanes.hpp"
#define BFLOAT16 1
#define NAME(x) x##_avx512_bfloat16
#include "banded_lanes.hpp"
#undef LANES
#undef QUERIES
#undef KEYS
#undef CHANNELS
#undef TARGET
#undef LOW
#undef HIGH

#define LANES 8
#define QUERIES 3
#define KEYS 3
#define CHANNELS 3
#define TARGET __attribute__((target("avx2,fma")))
#define LOW 0, 8, 1, 9, 2, 10, 3, 11
#define HIGH 4, 12, 5, 13, 6, 14, 7, 15
#define BFLOAT16 0
#define NAME(x) x##_avx2
#include "banded_lanes.hpp"
#define BFLOAT16 1
#define NAME(x) x##_avx2_bfloat16
#include "banded_lanes.hpp"
#undef LANES
#undef QUERIES
#undef KEYS
#undef CHANNELS
#undef TARGET
#undef LOW
#undef HIGH
#endif

#define LANES 4
#define QUERIES 3
#define KEYS 3
#define CHANNELS 3
#define TARGET
#define LOW 0, 4, 1, 5
#define HIGH 2, 6, 3, 7
#define BFLOAT16 0
#define NAME(x) x##_plain
#include "banded_lanes.hpp"
#define BFLOAT16 1
#define NAME(x) x##_plain_bfloat16
#include "banded_lanes.hpp"

typedef size_t (*Bytes)(const Band *);
typedef void (*Parts)(const Band *, void *, int64_t, int64_t);

typedef struct {
    const char *name;
    Bytes bytes;
    Parts parts, parts_bfloat16;
    int lanes;
} Kernel;

static const Kernel KERNELS[] = {
#if defined(__x86_64__)
    {"avx512", bytes_avx512, parts_avx512, parts_avx512_bfloat16, 16},
    {"avx2", bytes_avx2, parts_avx2, parts_avx2_bfloat16, 8},
#endif
    {"plain", bytes_plain, parts_plain, parts_plain_bfloat16, 4},
};

static int runs_here(const Kernel *kernel)
{
#if defined(__x86_64__)
    if (!strcmp(kernel->name, "avx512"))
        return __builtin_cpu_supports("avx512f") != 0;
    if (!strcmp(kernel->name, "avx2"))
        return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
#endif
    (void)kernel;
    return 1;
}

static PyObject *kernels(PyObject *module, PyObject *nothing)
{
    (void)module, (void)nothing;
    PyObject *const found = PyList_New(0);
    if (!found)
        return NULL;
    for (size_t i = 0; i < sizeof KERNELS / sizeof *KERNELS; i++) {
        if (!runs_here(&KERNELS[i]))
            continue;
        PyObject *const name = PyUnicode_FromString(KERNELS[i].name);
        const int failed = !name || PyList_Append(found, name) < 0;
        Py_XDECREF(name);
        if (failed) {
            Py_DECREF(found);
            return NULL;
        }
    }
    return found;
}

/* Work that the threads of a team share: each takes the next part until none is left. */
typedef struct {
    const Band *band;
    Bytes bytes;
    Parts parts;
    int64_t count, next;
} Work;

static void take(void *given)
{
    Work *const work = (Work *)given;
    const size_t bytes = (work->bytes(work->band) + 63) & ~(size_t)63;
    void *const buffers = aligned_alloc(64, bytes);
    if (!buffers)
        return; /* The others do what is left; where nobody can, the caller is told. */
    memset(buffers, 0, bytes);
    for (;;) {
        const int64_t part = __atomic_fetch_add(&work->next, GRAIN, __ATOMIC_RELAXED);
        if (part >= work->count)
            break;
        work->parts(work->band, buffers, part, smaller(part + GRAIN, work->count));
    }
    free(buffers);
}

/* OpenMP's way to run a function in a team of threads: GOMP_parallel. */
typedef void (*Team)(void (*function)(void *), void *data, unsigned threads, unsigned flags);

static PyObject *attend(PyObject *module, PyObject *arguments)
{
    (void)module;
    const char *name;
    unsigned long long team, out, q, k, v, bias, slots;
    unsigned threads;
    int bfloat16;
    long long lines, inner, queries, keys, ahead, heads, channels, span;
    Strides of[3];
    if (!PyArg_ParseTuple(arguments, "sp(KI)KKKKKKLLLLLLLL(LLLL)(LLLL)(LLLL)", &name, &bfloat16, &team, &threads, &out, &q, &k,
                          &v, &bias, &slots, &lines, &inner, &queries, &keys, &ahead, &heads, &channels, &span,
                          &of[0].outer, &of[0].along, &of[0].inner, &of[0].head, &of[1].outer, &of[1].along,
                          &of[1].inner, &of[1].head, &of[2].outer, &of[2].along, &of[2].inner, &of[2].head))
        return NULL;
    const Kernel *kernel = NULL;
    for (size_t i = 0; i < sizeof KERNELS / sizeof *KERNELS; i++)
        if (!strcmp(KERNELS[i].name, name) && runs_here(&KERNELS[i]))
            kernel = &KERNELS[i];
    if (!kernel)
        return PyErr_Format(PyExc_ValueError, "no kernel '%s' runs on this processor", name);
    const Band band = {
        (void *)(uintptr_t)out, (const void *)(uintptr_t)q, (const void *)(uintptr_t)k,
        (const void *)(uintptr_t)v, (const float *)(uintptr_t)bias, (const int64_t *)(uintptr_t)slots,
        lines, inner, queries, keys, ahead, heads, channels, span, of[0], of[1], of[2],
    };
    const int64_t groups = (lines + kernel->lanes - 1) / kernel->lanes, chunks = (queries + CHUNK - 1) / CHUNK;
    Work work = {&band, kernel->bytes, bfloat16 ? kernel->parts_bfloat16 : kernel->parts, groups * chunks, 0};
    Py_BEGIN_ALLOW_THREADS
    if (team && threads > 1)
        ((Team)(uintptr_t)team)(take, &work, threads, 0);
    else
        take(&work);
    Py_END_ALLOW_THREADS
    if (work.next < work.count)
        return PyErr_NoMemory();
    Py_RETURN_NONE;
}

static PyMethodDef METHODS[] = {
    {"kernels", kernels, METH_NOARGS, "The kernels that run on this processor, best first."},
    {"attend", attend, METH_VARARGS, "Runs a kernel over lines; addresses and strides are not checked."},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef MODULE = {PyModuleDef_HEAD_INIT, "_banded", NULL, 0, METHODS, NULL, NULL, NULL, NULL};

PyMODINIT_FUNC PyInit__banded(void)
{
    return PyModule_Create(&MODULE);
}
