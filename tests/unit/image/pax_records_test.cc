// SPDX-License-Identifier: Apache-2.0
#include "image/pax_records.h"

#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "tests/fakes/image/tar_writer.h"

namespace imagefs {
namespace {

absl::StatusCode ParseBody(std::string_view body) {
  PaxRecords records;
  records.body = body;
  return records.Parse().code();
}

TEST(PaxRecordsTest, Numbers) {
  EXPECT_EQ(PaxNumber("007"), 7);
  EXPECT_EQ(PaxNumber("+7"), 7);
  EXPECT_EQ(PaxNumber("-7"), -7);
  EXPECT_EQ(PaxNumber("-0"), 0);
  EXPECT_EQ(PaxNumber("9223372036854775807"), INT64_MAX);
  EXPECT_EQ(PaxNumber("-9223372036854775808"), INT64_MIN);
  for (const char* text : {"", "+", "-", "+-1", " 1", "1 ", "0x1", "9223372036854775808",
                           "-9223372036854775809", "1.0", "1_0"}) {
    EXPECT_FALSE(PaxNumber(text).has_value()) << text;
  }
}

TEST(PaxRecordsTest, Times) {
  EXPECT_EQ(ParsePaxTime("+1.5")->nanoseconds, 500'000'000u);
  EXPECT_EQ(ParsePaxTime("3.")->nanoseconds, 0u);
  EXPECT_EQ(ParsePaxTime("-0.5")->seconds, -1);
  for (const char* text : {".5", "", "1.-5", "1.5x", "now"}) {
    EXPECT_FALSE(ParsePaxTime(text).has_value()) << text;
  }
}

TEST(PaxRecordsTest, LengthsAreSignedNumbers) {
  PaxRecords records;
  records.body = "+10 path=a\n012 path=bc\n";
  ASSERT_FALSE(records.Parse().ok());  // "+10 path=a\n" has eleven bytes
  records.Clear();
  records.body = "+11 path=a\n0013 path=bc\n";
  ASSERT_TRUE(records.Parse().ok());
  EXPECT_EQ(records.path, "bc");
}

TEST(PaxRecordsTest, MalformedRecords) {
  for (const char* body : {"9 path=ab", "99 path=a\n", "path=a\n", "9 patha1\n", "-9 path=a\n",
                           "5 =a\n", "0 path=a\n", "2 \n", "9 path=a\n\n"}) {
    EXPECT_EQ(ParseBody(body), absl::StatusCode::kDataLoss) << body;
  }
  EXPECT_EQ(ParseBody(TarWriter::PaxBody({{std::string("a\0b", 3), "x"}})),
            absl::StatusCode::kDataLoss);
  for (const char* key : {"path", "linkpath", "uname", "gname"}) {
    EXPECT_EQ(ParseBody(TarWriter::PaxBody({{key, std::string("\0", 1)}})),
              absl::StatusCode::kInvalidArgument);
  }
  EXPECT_EQ(ParseBody(TarWriter::PaxBody({{"comment", std::string("\0", 1)}})),
            absl::StatusCode::kOk);
}

TEST(PaxRecordsTest, TheLastValueOfEachXattr) {
  PaxRecords records;
  records.body = TarWriter::PaxBody({{"SCHILY.xattr.user.b", "1"},
                                     {"SCHILY.xattr.user.a", "2"},
                                     {"SCHILY.xattr.user.b", ""},
                                     {"SCHILY.xattr.user.a=b", "3"}});
  ASSERT_TRUE(records.Parse().ok());
  // A key ends at its first equals sign.
  EXPECT_EQ(*records.Xattrs(), (std::vector<Xattr>{{"user.a", "b=3"}, {"user.b", ""}}));
  records.Clear();
  EXPECT_TRUE(records.Xattrs()->empty());
  records.body = TarWriter::PaxBody({{"SCHILY.xattr.", "1"}});
  ASSERT_TRUE(records.Parse().ok());
  EXPECT_EQ(records.Xattrs().status().code(), absl::StatusCode::kInvalidArgument);
}

TEST(PaxRecordsTest, SegmentsOfSparseFilesComeInPairs) {
  const auto code = [](const TarWriter::Records& records) {
    return ParseBody(TarWriter::PaxBody(records));
  };
  EXPECT_EQ(code({{"GNU.sparse.numbytes", "1"}}), absl::StatusCode::kDataLoss);
  EXPECT_EQ(code({{"GNU.sparse.offset", "1"}, {"GNU.sparse.offset", "2"}}),
            absl::StatusCode::kDataLoss);
  EXPECT_EQ(code({{"GNU.sparse.offset", "1,2"}}), absl::StatusCode::kDataLoss);
  PaxRecords records;
  records.body = TarWriter::PaxBody({{"GNU.sparse.offset", "0"},
                                     {"GNU.sparse.numbytes", "5"},
                                     {"GNU.sparse.offset", "7"},
                                     {"GNU.sparse.numbytes", "1"}});
  ASSERT_TRUE(records.Parse().ok());
  EXPECT_EQ(records.sparse_map, "0,5,7,1");
  EXPECT_TRUE(records.IsSparse());
}

}  // namespace
}  // namespace imagefs
