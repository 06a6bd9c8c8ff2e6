// SPDX-License-Identifier: Apache-2.0
#include "base/secret.h"

#include <gtest/gtest.h>

#include <cstring>
#include <sstream>
#include <type_traits>
#include <utility>

#include "base/text.h"

namespace imagefs {
namespace {

template <typename T>
concept Printable = requires(std::ostream& out, const T& value) {
  out << value;
};
template <typename T>
concept Concatenable = requires(const T& value) {
  StrCat(value);
};

static_assert(!std::is_convertible_v<Secret, std::string>);
static_assert(!std::is_convertible_v<Secret, std::string_view>);
static_assert(!std::is_constructible_v<std::string, Secret>);
static_assert(Printable<std::string> && !Printable<Secret>);

TEST(SecretTest, HoldsTextOnce) {
  const Secret empty, from_literal = "hush", from_string = std::string("hush");
  EXPECT_TRUE(empty.empty());
  EXPECT_TRUE(Secret("").empty());
  EXPECT_EQ(empty.view(), "");
  EXPECT_STREQ(empty.c_str(), "");
  EXPECT_EQ(from_literal, from_string);
  EXPECT_EQ(from_literal.size(), 4u);
  EXPECT_FALSE(from_literal == Secret("hush2"));
  EXPECT_STREQ(from_literal.c_str(), "hush");
  const Secret copy = from_literal;
  EXPECT_EQ(copy.view().data(), from_literal.view().data());
  EXPECT_NE(from_string.view().data(), from_literal.view().data());
  EXPECT_EQ(Secret::Concat({"a", "", "b", std::string_view("\0c", 2)}).view(),
            std::string_view("ab\0c", 4));
}

TEST(SecretTest, StaysWhileACopyDoes) {
  Secret kept;
  {
    const Secret first = "a text that is too long for a string's own memory";
    kept = first;
  }
  EXPECT_EQ(kept.view(), "a text that is too long for a string's own memory");
  kept = "another";
  EXPECT_EQ(kept.view(), "another");
  Secret moved = std::move(kept);
  EXPECT_EQ(moved.view(), "another");
}

TEST(SecretTest, WipesTextsWithoutMovingThem) {
  for (const size_t size : {3u, 15u, 16u, 4000u}) {
    std::string text(size, 'x');
    const char* const at = text.data();
    text.resize(size / 2);  // the bytes past its end are wiped as well
    Wipe(text);
    EXPECT_TRUE(text.empty());
    EXPECT_EQ(text.data(), at);
    // Within the capacity: no reallocation.
    text.resize(text.capacity(), 'y');
    EXPECT_EQ(text.find('x'), std::string::npos);
  }
  std::string text = "secret";
  char* const at = text.data();
  { const WipeAtEnd wipe(text); }
  EXPECT_EQ(std::memcmp(at, "\0\0\0\0\0\0", 6), 0);
}

}  // namespace
}  // namespace imagefs
