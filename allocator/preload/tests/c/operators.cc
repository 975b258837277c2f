// operator new and delete in all their forms, the new-handler, and std::bad_alloc.
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <malloc.h>
#include <new>
#include <string>
#include <vector>

static int failures;

#define CHECK(condition)                                                        \
    do {                                                                        \
        if (!(condition)) {                                                     \
            std::fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #condition); \
            failures++;                                                         \
        }                                                                       \
    } while (0)

struct alignas(256) Wide {
    char bytes[300];
};

static volatile std::size_t huge = PTRDIFF_MAX - 65536;
static int handled;

static void handler() {
    if (++handled == 3)
        std::set_new_handler(nullptr);
}

static void throwing_handler() { throw 42; }

template <class Act> static bool throws_bad_alloc(Act act) {
    try {
        void *p = act();
        CHECK(p == nullptr);
    } catch (const std::bad_alloc &) {
        return true;
    }
    return false;
}

int main() {
    for (std::size_t size = 0; size < 40000; size += 1 + size / 9) {
        void *p = ::operator new(size), *q = ::operator new[](size);
        CHECK(malloc_usable_size(p) >= size && reinterpret_cast<uintptr_t>(p) % 16 == 0);
        std::memset(p, 1, size);
        ::operator delete(p, size);
        ::operator delete[](q, size);
        p = ::operator new(size, std::nothrow);
        q = ::operator new[](size, std::nothrow);
        ::operator delete(p);
        ::operator delete[](q);
        p = ::operator new(size, std::nothrow);
        q = ::operator new[](size, std::nothrow);
        ::operator delete(p, std::nothrow);
        ::operator delete[](q, std::nothrow);
        for (std::size_t align = 32; align <= 8192; align *= 2) {
            std::align_val_t a{align};
            p = ::operator new(size, a);
            q = ::operator new[](size, a);
            CHECK(reinterpret_cast<uintptr_t>(p) % align == 0);
            CHECK(reinterpret_cast<uintptr_t>(q) % align == 0);
            ::operator delete(p, size, a);
            ::operator delete[](q, a);
            p = ::operator new(size, a, std::nothrow);
            q = ::operator new[](size, a, std::nothrow);
            ::operator delete(p, a, std::nothrow);
            ::operator delete[](q, size, a);
        }
    }
    Wide *wide = new Wide[7];
    CHECK(reinterpret_cast<uintptr_t>(wide) % 256 == 0);
    delete[] wide;
    std::vector<std::string> strings;
    for (int i = 0; i < 1000; i++)
        strings.push_back(std::string(i, 'x'));
    strings.clear();

    std::align_val_t a{64};
    CHECK(throws_bad_alloc([] { return ::operator new(huge); }));
    CHECK(throws_bad_alloc([] { return ::operator new[](huge); }));
    CHECK(throws_bad_alloc([=] { return ::operator new(huge, a); }));
    CHECK(throws_bad_alloc([=] { return ::operator new[](huge, a); }));
    CHECK(::operator new(huge, std::nothrow) == nullptr);
    CHECK(::operator new[](huge, std::nothrow) == nullptr);
    CHECK(::operator new(huge, a, std::nothrow) == nullptr);
    CHECK(::operator new[](huge, a, std::nothrow) == nullptr);
    std::set_new_handler(handler);
    CHECK(throws_bad_alloc([] { return ::operator new(huge); }));
    CHECK(handled == 3);
    std::set_new_handler(throwing_handler);
    int caught = 0;
    try {
        ::operator delete(::operator new(huge));
    } catch (int value) {
        caught = value;
    }
    CHECK(caught == 42);
    CHECK(::operator new(huge, std::nothrow) == nullptr);
    if (failures == 0)
        std::puts("ok");
    return failures != 0;
}
