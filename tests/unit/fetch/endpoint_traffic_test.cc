// SPDX-License-Identifier: Apache-2.0
#include "fetch/endpoint_traffic.h"

#include <gtest/gtest.h>

#include <numeric>

#include "base/text.h"

namespace imagefs {
namespace {

using Clock = EndpointTraffic::Request::Clock;

TEST(EndpointTrafficTest, CountsByEndpointAndKind) {
  EndpointTraffic traffic;
  const Clock::time_point sent = Clock::now();
  {
    auto blob = traffic.Send("a:443", RequestKind::kBlob, sent);
    blob.Headers(sent + std::chrono::milliseconds(30));
    blob.Bytes(100);
    blob.Bytes(23);
    blob.End(EndpointTraffic::Request::Of(206));
  }
  traffic.Send("a:443", RequestKind::kBlob, sent).End(EndpointTraffic::Request::Of(404));
  traffic.Send("a:443", RequestKind::kBlob, sent).End(EndpointTraffic::Request::Of(503));
  traffic.Send("b:443", RequestKind::kToken, sent).End(EndpointTraffic::Result::kFailed);
  { const auto left = traffic.Send("b:443", RequestKind::kToken, sent); }
  const std::vector<EndpointTraffic::Row> rows = traffic.Rows();
  ASSERT_EQ(rows.size(), 2U);
  EXPECT_EQ(rows[0].endpoint, "a:443");
  EXPECT_EQ(RequestKindName(rows[0].kind), "blob");
  EXPECT_EQ(rows[0].bytes, 123U);
  EXPECT_EQ(rows[0].results, (std::array<uint64_t, 5>{1, 1, 1, 0, 0}));
  EXPECT_EQ(rows[0].answered.count(), 1U);
  EXPECT_NEAR(rows[0].answered.sum, 0.03, 1e-9);
  EXPECT_EQ(RequestKindName(rows[1].kind), "token");
  EXPECT_EQ(rows[1].results, (std::array<uint64_t, 5>{0, 0, 0, 1, 1}));
}

TEST(EndpointTrafficTest, ManyHostsAreCountedTogether) {
  EndpointTraffic traffic;
  constexpr size_t kHosts = 500;
  for (size_t i = 0; i < kHosts; ++i) {
    traffic.Send(StrCat("host", i, ":443"), RequestKind::kBlob, Clock::now()).Bytes(1);
  }
  const std::vector<EndpointTraffic::Row> rows = traffic.Rows();
  EXPECT_EQ(rows.size(), EndpointTraffic::kMaxEndpoints + 1);
  uint64_t bytes = 0;
  for (const EndpointTraffic::Row& row : rows) {
    bytes += row.bytes;
    if (row.endpoint == EndpointTraffic::kOthers) {
      EXPECT_EQ(row.bytes, kHosts - EndpointTraffic::kMaxEndpoints);
    }
  }
  EXPECT_EQ(bytes, kHosts);
}

}  // namespace
}  // namespace imagefs
