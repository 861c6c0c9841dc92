"""Customers joined with what they ordered, sorted by amount; waits between two stages until it is told to go on.

Its argument: a directory that all instances see.
"""

import os
import sys
import time

from pyspark.sql import SparkSession, functions

[_, store] = sys.argv
spark = SparkSession.builder.config("spark.executor.memory", "512m").config("spark.ui.enabled", "false").getOrCreate()
spark.sparkContext.setLogLevel("ERROR")
spark.conf.set("spark.sql.shuffle.partitions", 3)
spark.conf.set("spark.sql.autoBroadcastJoinThreshold", -1)
read = spark.read.option("header", True).option("inferSchema", True)
orders = read.csv(f"file://{store}/orders").repartition(6, "customer").persist()
orders.count()
open(f"{store}/loaded", "w").close()
while not os.path.exists(f"{store}/go-on"):
    time.sleep(0.05)
customers = read.csv(f"file://{store}/customers")
sums = orders.groupBy("customer").agg(functions.sum("amount").alias("total"))
joined = customers.join(sums, customers.id == sums.customer).orderBy(functions.desc("total"), "id")
for row in joined.collect():
    print(row["id"], row["name"], row["total"])
