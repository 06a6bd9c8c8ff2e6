# imagefs_gtest(TARGET PREFIX [EXCLUDE NAME...]): a test of ctest for every suite of a GoogleTest program, by the name
# PREFIX.SUITE; not, as gtest_discover_tests has it, for every test: starting a process took longer than most of them.
# The program is asked for its suites once it is linked. Run as a script, this file asks.
if(NOT CMAKE_SCRIPT_MODE_FILE)
  set(IMAGEFS_GTEST_SUITES ${CMAKE_CURRENT_LIST_FILE})
  # Emulation takes ten times as long, and sanitizers several times.
  if(CMAKE_CROSSCOMPILING OR IMAGEFS_SANITIZE)
    set(IMAGEFS_UNIT_TIMEOUT 1200)
  else()
    set(IMAGEFS_UNIT_TIMEOUT 300)
  endif()

  function(imagefs_gtest target prefix)
    cmake_parse_arguments(arg "" "" EXCLUDE ${ARGN})
    set(tests ${CMAKE_CURRENT_BINARY_DIR}/${target}_suites.cmake)
    add_custom_command(
      TARGET ${target} POST_BUILD
      BYPRODUCTS ${tests}
      COMMAND ${CMAKE_COMMAND} "-DPROGRAM=$<TARGET_FILE:${target}>" "-DEMULATOR=${CMAKE_CROSSCOMPILING_EMULATOR}"
              "-DPREFIX=${prefix}" "-DEXCLUDE=${arg_EXCLUDE}" "-DTIMEOUT=${IMAGEFS_UNIT_TIMEOUT}" "-DOUTPUT=${tests}"
              -P ${IMAGEFS_GTEST_SUITES}
      VERBATIM)
    set_property(TARGET ${target} APPEND PROPERTY LINK_DEPENDS ${IMAGEFS_GTEST_SUITES})
    # One that was not built fails; it is not absent.
    set(include ${CMAKE_CURRENT_BINARY_DIR}/${target}_include.cmake)
    file(WRITE ${include} "if(EXISTS \"${tests}\")\n  include(\"${tests}\")\nelse()\n"
                          "  add_test(${prefix}.not_built ${target}_not_built)\n"
                          "  set_tests_properties(${prefix}.not_built PROPERTIES LABELS unit)\nendif()\n")
    set_property(DIRECTORY APPEND PROPERTY TEST_INCLUDE_FILES ${include})
  endfunction()
  return()
endif()

cmake_minimum_required(VERSION 3.25)
execute_process(COMMAND ${EMULATOR} ${PROGRAM} --gtest_list_tests OUTPUT_VARIABLE list RESULT_VARIABLE result TIMEOUT 120)
if(NOT result EQUAL 0)
  message(FATAL_ERROR "${PROGRAM} --gtest_list_tests: ${result}\n${list}")
endif()
set(command)
foreach(word ${EMULATOR} ${PROGRAM})
  string(APPEND command " [==[${word}]==]")
endforeach()
set(script)
string(REGEX MATCHALL "(^|\n)[A-Za-z0-9_/]+\\." suites "${list}")
foreach(suite ${suites})
  string(STRIP "${suite}" suite)
  string(REGEX REPLACE "\\.$" "" suite "${suite}")
  if(NOT suite IN_LIST EXCLUDE)
    set(name "${PREFIX}.${suite}")
    string(APPEND script "add_test([==[${name}]==]${command} [==[--gtest_filter=${suite}.*]==])\n"
                         "set_tests_properties([==[${name}]==] PROPERTIES LABELS unit TIMEOUT ${TIMEOUT})\n")
  endif()
endforeach()
if(script STREQUAL "")
  message(FATAL_ERROR "${PROGRAM} names no suite")
endif()
file(WRITE ${OUTPUT} "${script}")
