# Every target of the project is made by these, so that warnings, include root
# and sanitizers are the same everywhere and nothing is set globally.
include_guard(GLOBAL)

# shoal_configure(TARGET): what each of our own targets gets.
function(shoal_configure target)
  target_include_directories(${target} PRIVATE ${PROJECT_SOURCE_DIR})
  target_compile_options(${target} PRIVATE -Wall -Wextra -Werror)
  if(SHOAL_SANITIZE)
    # Reports need line numbers, not variables, and most of our code runs too
    # rarely to pay for its optimization: half the compiler's time. GCC 12 sees
    # uninitialized values in what sanitizers make of std::variant.
    target_compile_options(${target} PRIVATE
      -O1 -g1 -Wno-maybe-uninitialized)
  endif()
  if(SHOAL_SANITIZE STREQUAL "address")
    target_compile_options(${target} PRIVATE
      -fsanitize=address,undefined -fno-sanitize-recover=all
      -fno-omit-frame-pointer)
    target_link_options(${target} PRIVATE -fsanitize=address,undefined)
  elseif(SHOAL_SANITIZE STREQUAL "thread")
    target_compile_options(${target} PRIVATE -fsanitize=thread)
    # ThreadSanitizer does not know fences; what Asio's order is ordered by its
    # queues' mutexes as well.
    target_compile_definitions(${target} PRIVATE
      BOOST_ASIO_DISABLE_FENCED_BLOCK)
    target_link_options(${target} PRIVATE -fsanitize=thread)
  elseif(SHOAL_SANITIZE)
    message(FATAL_ERROR "SHOAL_SANITIZE is address, thread or empty")
  endif()
endfunction()

# shoal_library(NAME SRCS ... DEPS ...): a static library target; DEPS are
# linked PRIVATE, so an arrow between layers must be stated by each user.
function(shoal_library name)
  cmake_parse_arguments(ARG "" "" "SRCS;DEPS" ${ARGN})
  add_library(${name} STATIC ${ARG_SRCS})
  shoal_configure(${name})
  target_link_libraries(${name} PRIVATE ${ARG_DEPS})
endfunction()

# What a run of all GoogleTest binaries needs.
add_custom_target(all_tests)

# shoal_test(NAME LABEL label SRCS ... DEPS ...): a GoogleTest binary, one ctest
# case a test case. Labels: unit, golden, gpu, e2e, bench.
function(shoal_test name)
  cmake_parse_arguments(ARG "" "LABEL" "SRCS;DEPS" ${ARGN})
  add_executable(${name} ${ARG_SRCS})
  shoal_configure(${name})
  target_compile_definitions(${name} PRIVATE
    SHOAL_GOLDEN_DIR="${PROJECT_SOURCE_DIR}/tests/golden")
  target_link_libraries(${name} PRIVATE ${ARG_DEPS} GTest::gmock_main)
  if(SHOAL_SANITIZE STREQUAL "thread")
    target_link_libraries(${name} PRIVATE tsan_mutex)
  endif()
  add_dependencies(all_tests ${name})
  gtest_discover_tests(${name} PROPERTIES LABELS ${ARG_LABEL}
    DISCOVERY_TIMEOUT 60)
endfunction()
