// The few lines of test framework that the native tests need. A failed check prints where and ends the
// program.
#ifndef WEIR_TEST_CHECK_H_
#define WEIR_TEST_CHECK_H_

#include <cstdio>
#include <cstdlib>

#define CHECK_EQ(actual, expected)                                                                   \
  do {                                                                                               \
    const auto a = static_cast<unsigned long long>(actual);                                          \
    const auto e = static_cast<unsigned long long>(expected);                                        \
    if (a != e) {                                                                                    \
      std::fprintf(stderr, "%s:%d: %s is %llu, expected %llu\n", __FILE__, __LINE__, #actual, a, e); \
      std::exit(1);                                                                                  \
    }                                                                                                \
  } while (false)

// Runs a test and prints its name, which the TypeScript side lists.
#define RUN(test)               \
  do {                          \
    test();                     \
    std::printf("%s\n", #test); \
  } while (false)

#endif  // WEIR_TEST_CHECK_H_
