// Errors as Python knows them. Each function throws what becomes the Python error of its name.
#pragma once

#include <sstream>
#include <string>

namespace emergence_ext {

[[noreturn]] void value_error(const std::string& text);
[[noreturn]] void type_error(const std::string& text);
[[noreturn]] void runtime_error(const std::string& text);
[[noreturn]] void not_implemented_error(const std::string& text);
[[noreturn]] void out_of_memory_error(const std::string& text);  // torch's own

template <void (*error)(const std::string&), typename... Parts>
[[noreturn]] void raise(const Parts&... parts) {
  std::ostringstream text;
  (text << ... << parts);
  error(text.str());
  __builtin_unreachable();
}

}  // namespace emergence_ext

// Raises `error` unless `condition` holds. The rest is its text, which is formed only then.
#define EMERGENCE_CHECK(error, condition, ...)   \
  do {                                           \
    if (!(condition)) raise<error>(__VA_ARGS__); \
  } while (false)
